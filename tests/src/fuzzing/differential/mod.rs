//! The same server behind three clients: the engine alone and both adapters, each with octets cut in its own way.
//!
//! The server answers the commands that it reads, in their order, and only when the client waits. So what it says is a
//! function of what the client says, and how octets are cut must not be visible in what comes of it: not in what the
//! server hears, and not in the reports.
//!
//! Two things may differ. Where a session breaks, as by a 421, it depends on the moment how far the client has come with
//! what nobody answers any more. Then what the server heard before it broke the session must be the same, and what each
//! recipient was told by name. And of a body that must not be sent, an adapter sends less: what it has gathered stays
//! where it is.

use smtp_proto::{
    Cause, Chunking, ClientName, Config, Envelope, Error, Outcome, Protocol, Reply, Report,
    TlsPolicy, parameter::MailParameter,
};

use super::Input;

mod adapters;
mod engine;
mod server;

use server::Server;

/// A session, and what its server does. The octets: flags of the client and of the server (one each), the size of a
/// chunk, how input and output are cut (one each), the number of messages; two octets for each of those; then the
/// choices of the server, one for each command (see `Server`).
pub fn differential(data: &[u8]) {
    let scene = Scene::read(&mut Input(data));
    let whole = engine::run(&scene, Cut::WHOLE);
    let runs = [
        ("engine, cut", engine::run(&scene, scene.cut)),
        ("blocking, cut", adapters::blocking(&scene, scene.cut)),
        ("tokio, cut", adapters::tokio(&scene, scene.cut)),
        // Without a cut, one of the two: a run is what costs time.
        match scene.choices.len() % 2 {
            0 => ("blocking", adapters::blocking(&scene, Cut::WHOLE)),
            _ => ("tokio", adapters::tokio(&scene, Cut::WHOLE)),
        },
    ];
    for (name, run) in runs {
        compare(name, &whole, &run);
    }
}

/// How many octets are moved at a time; zero is for all.
#[derive(Clone, Copy, Debug)]
struct Cut {
    input: usize,
    output: usize,
}

impl Cut {
    const WHOLE: Self = Self {
        input: 0,
        output: 0,
    };

    fn of(size: usize, octets: usize) -> usize {
        match size {
            0 => octets,
            size => octets.min(size),
        }
    }
}

#[derive(Debug)]
struct Scene {
    config: Config,
    /// All messages are submitted at once, and QUIT with them.
    bulk: bool,
    cut: Cut,
    messages: Vec<(Envelope, Vec<u8>)>,
    offers: u8,
    choices: Vec<u8>,
}

impl Scene {
    fn read(input: &mut Input<'_>) -> Self {
        let [flags, offers, size, cut_in, cut_out, count] = [(); 6].map(|()| input.byte());
        let mut config = Config::new(ClientName::parse("client.example.org").expect("a name"));
        config.tls = TlsPolicy::Never;
        if flags & 1 != 0 {
            config.protocol = Protocol::Lmtp;
        }
        config.pipelining = flags & 2 == 0;
        config.overlap = flags & 4 != 0;
        config.chunking = [
            Chunking::Auto,
            Chunking::Eager,
            Chunking::Never,
            Chunking::Always,
        ][usize::from(flags >> 3 & 3)];
        config.learn_limits = flags & 32 != 0;
        config.limits.chunks = if flags & 64 == 0 { 48 } else { 1 };
        config.chunk_size = match size {
            0 => 65_536,
            size => size.into(),
        };
        let bulk = flags & 128 != 0;
        let messages: Vec<_> = (0..usize::from(count % 4) + 1)
            .map(|index| message(index, bulk, input.byte(), input.byte()))
            .collect();
        // A long body in short pieces takes too long, and finds no more.
        let longest = messages.iter().map(|(_, body)| body.len()).max();
        let piece = longest.unwrap_or(0) / 64;
        let cut = |size: u8| match size {
            0 => 0,
            size => piece.max(size.into()),
        };
        if config.chunk_size < piece {
            config.chunk_size = piece;
        }
        Self {
            config,
            bulk,
            cut: Cut {
                input: cut(cut_in),
                output: cut(cut_out),
            },
            messages,
            offers,
            choices: input.0.to_vec(),
        }
    }
}

/// A message by two octets of flags. In bulk, both adapters ask for a body again where it is needed again.
fn message(index: usize, bulk: bool, flags: u8, lines: u8) -> (Envelope, Vec<u8>) {
    let paths = (0..usize::from(flags & 3) + 1).map(|to| format!("m{index}r{to}@example.net"));
    let sender = format!("m{index}@example.org");
    let mut envelope = Envelope::new(sender, paths.collect::<Vec<_>>())
        .expect("valid")
        .all_or_nothing(flags & 4 != 0)
        .reopenable(bulk);
    if flags & 8 != 0 {
        envelope = envelope.parameter(MailParameter::per_recipient_replies());
    }
    let mut body = format!("Subject: m{index}\r\n\r\n").into_bytes();
    for line in 0..lines % 32 {
        let text = ["text\r\n", ".\r\n", "..x\n", "a\rb\r\n", "", "\u{e9}\r\n"];
        body.extend_from_slice(text[usize::from(line % 5)].as_bytes());
    }
    match flags >> 4 & 7 {
        0 => body.truncate(body.len() - 2),
        1 => {
            let size = smtp_proto::body::wire_size(&body);
            envelope = envelope.exact_size(size);
        }
        2 => envelope = envelope.exact_size(body.len() as u64 + 1),
        3 => body.push(0),
        4 => body.extend_from_slice(&b"longer than a buffer of the client\r\n".repeat(1_200)),
        _ => {}
    }
    (envelope, body)
}

/// What came of a session.
#[derive(Debug)]
struct Run {
    /// What the server has read.
    heard: Vec<u8>,
    /// So much of it before it broke the session.
    broken_at: Option<usize>,
    /// Something was refused while chunks were on their way, or may have been.
    is_shifted: bool,
    reports: Vec<Report>,
}

impl Run {
    fn new(server: &Server, reports: Vec<Report>) -> Self {
        Self {
            heard: server.heard().to_vec(),
            broken_at: server.broken_at(),
            is_shifted: server.is_shifted(),
            reports,
        }
    }
}

fn compare(name: &str, whole: &Run, run: &Run) {
    let context = || {
        format!(
            "{name} heard\n{}\nand the engine\n{}\nwith {:#?}\nand {:#?}",
            run.heard.escape_ascii(),
            whole.heard.escape_ascii(),
            run.reports,
            whole.reports
        )
    };
    assert_eq!(run.reports.len(), whole.reports.len(), "{}", context());
    // How many chunks follow a refusal depends on the moment, and so does what the server says after that.
    let is_shifted = whole.is_shifted || run.is_shifted;
    // A body that must not go out may be found out before or after that refusal.
    let is_bad = has_bad_body(whole) || has_bad_body(run);
    let first = whole.reports.iter().position(has_failed).unwrap_or(0);
    let comparable = if is_shifted {
        first
    } else {
        whole.reports.len()
    };
    if is_shifted && !is_bad && whole.broken_at.is_none() {
        // Its other recipients may be those of its next transaction.
        let [one, other] = [run, whole].map(|run| first_failure(&run.reports[first]));
        assert_eq!(one, other, "another failure: {}", context());
    }
    if !is_shifted {
        assert_eq!(run.broken_at, whole.broken_at, "{}", context());
        let end = |run: &Run| run.broken_at.unwrap_or(run.heard.len());
        let [one, other] = [run, whole].map(|run| &run.heard[..end(run)]);
        let same = one == other || (has_bad_body(whole) && other.starts_with(one));
        assert!(same, "other octets: {}", context());
    }
    for (one, other) in run.reports.iter().zip(&whole.reports).take(comparable) {
        let same = match whole.broken_at {
            None => one == other,
            Some(_) => {
                one.mailboxes() == other.mailboxes() && told_by_name(one) == told_by_name(other)
            }
        };
        assert!(same, "another report: {}", context());
    }
}

fn has_bad_body(run: &Run) -> bool {
    let results = run.reports.iter().flat_map(|report| &report.recipients);
    results
        .filter_map(|result| result.as_ref().err())
        .any(|error| matches!(error.cause, Cause::Body(_)))
}

fn has_failed(report: &Report) -> bool {
    report.recipients.iter().any(Result::is_err)
}

/// What the first recipient that failed was told, and all before it.
fn first_failure(report: &Report) -> &[Result<Reply, Error>] {
    let first = report.recipients.iter().position(Result::is_err);
    &report.recipients[..first.map_or(0, |first| first + 1)]
}

/// What was said to each recipient, where the session went on after that.
fn told_by_name(report: &Report) -> Vec<Option<String>> {
    let told = report.recipients.iter().map(|result| match result {
        Ok(reply) => Some(format!("{reply:?}")),
        Err(error) if error.outcome == Outcome::Permanent => match &error.cause {
            Cause::Rejected(reply) => Some(format!("{} {reply:?}", error.stage)),
            _ => None,
        },
        Err(_) => None,
    });
    told.collect()
}
