//! Forwards messages, and reports exactly what became of them. `--help` has the details.

use std::io;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::task::{Context, Poll};

use smtp_tests::send::{
    Item, Options, Printer, Progress, READ_SIZE, Run, SessionFacts, Source, Stream, WithoutBcc,
    server_for,
};
use smtp_tokio::{Message, Session};
use tokio::fs::File;
use tokio::io::{AsyncBufRead, AsyncRead, BufReader, ReadBuf};

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("send: {error}");
            return ExitCode::from(75);
        }
    };
    let code = runtime.block_on(run());
    // Do not wait for a read of a pipe that is not needed any more.
    runtime.shutdown_background();
    code
}

async fn run() -> ExitCode {
    let options = match Options::parse_args() {
        Ok(options) => Arc::new(options),
        Err(code) => return code,
    };
    let printer = Printer::new(&options);
    let items = options.prepare();
    let mut run = Run::new(printer, &items);
    if let Err(error) = forward(&options, &mut run).await {
        run.refuse(&error);
    }
    run.conclude()
}

/// An error is one before the connection.
async fn forward(options: &Arc<Options>, run: &mut Run<'_>) -> Result<(), smtp_proto::Error> {
    if !run.has_more() {
        return Ok(());
    }
    let server = options.start_server()?;
    let terms = server_for(options, &server.address, server.own_pem())?;
    while run.has_more() {
        let mut session = match Session::connect(&terms).await {
            Ok(session) => session,
            Err(error) => {
                run.failed(&error);
                break;
            }
        };
        let messages = run.rest().map(|item| Message {
            envelope: item.envelope.clone(),
            open: || Content::open(item),
            tag: (),
        });
        let mut reports = session.send_all(smtp_tokio::iter(messages)).and_quit();
        while let Some(report) = reports.next().await {
            let facts = facts(reports.session());
            if !run.finished(report, &facts) {
                break;
            }
        }
        drop(reports);
        run.session_over(session.end(), &facts(&session));
    }
    server.say_where(options);
    Ok(())
}

/// A message that is being sent.
struct Content {
    source: Pin<Box<dyn AsyncBufRead>>,
    progress: Progress,
}

impl Content {
    async fn open(item: &Item) -> io::Result<Self> {
        let source = item.opened(open(&item.source).await)?;
        Ok(Self {
            source: match item.strips_bcc {
                true => Box::pin(WithoutBcc::new(source)),
                false => source,
            },
            progress: item.progress(),
        })
    }
}

async fn open(source: &Source) -> io::Result<Pin<Box<dyn AsyncBufRead>>> {
    let file = match source {
        Source::Sample(octets) => return Ok(Box::pin(*octets)),
        Source::File(file) => {
            let opened = File::open(file.path()).await?;
            file.check(&opened.metadata().await?)?;
            opened
        }
        Source::Once(once) => match once.take()? {
            Stream::Open(file) => File::from_std(file),
            Stream::At(path) => File::open(path).await?,
        },
    };
    Ok(Box::pin(BufReader::with_capacity(READ_SIZE, file)))
}

impl AsyncRead for Content {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().source.as_mut().poll_read(cx, to)
    }
}

impl AsyncBufRead for Content {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        self.get_mut().source.as_mut().poll_fill_buf(cx)
    }

    fn consume(self: Pin<&mut Self>, octets: usize) {
        let content = self.get_mut();
        content.source.as_mut().consume(octets);
        content.progress.advance(octets);
    }
}

fn facts(session: &Session) -> SessionFacts {
    SessionFacts {
        tls: session.tls_info().cloned(),
        round_trips: session.round_trips(),
        overlap_broken: session.overlap_is_broken(),
    }
}
