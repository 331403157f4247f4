//! The receiving server in the tests of an application: its rules and its records. Each test runs over TCP and over
//! the stub, with both adapters.

use std::io;
use std::time::Duration;

use smtp_blocking::{Credentials, Envelope, Error, Outcome, Report, Server, Stage, TlsPolicy};
use smtp_tests::receiver::{Counts, HeardCommand, Options, Receiver, Step};
use smtp_tests::watchdog::in_time;

const MESSAGE: &[u8] = b"Subject: hello\r\n\r\n.Hello.\r\n";
const PATIENCE: Duration = Duration::from_secs(20);

fn envelope() -> Envelope {
    Envelope::new("alice@example.org", ["bob@example.net"]).unwrap()
}

/// A way to reach a server: an adapter, and TCP or memory.
#[derive(Clone, Copy, Debug)]
struct Way {
    tokio: bool,
    in_memory: bool,
}

/// Runs the test in each way, with a watchdog.
fn each_way(options: &Options, test: fn(Way, &Receiver)) {
    let options = options.clone();
    let run = move || {
        for (tokio, in_memory) in [(false, false), (false, true), (true, false), (true, true)] {
            let receiver = match in_memory {
                true => Receiver::stub_with(options.clone()),
                false => Receiver::start(options.clone()),
            };
            test(Way { tokio, in_memory }, &receiver.unwrap());
        }
    };
    in_time(run);
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().unwrap()
}

impl Way {
    /// Opens a session, and sends this message this many times.
    fn send(
        self,
        receiver: &Receiver,
        server: &Server,
        times: usize,
    ) -> Vec<Result<Report, Error>> {
        let mut results = Vec::new();
        if self.tokio {
            runtime().block_on(async {
                use smtp_tokio::Session;
                let session = match self.in_memory {
                    true => Session::connect_over(server, receiver.stream()).await,
                    false => Session::connect(server).await,
                };
                let mut session = match session {
                    Ok(session) => session,
                    Err(error) => return results.push(Err(error)),
                };
                for _ in 0..times {
                    results.push(session.send(envelope(), MESSAGE).await);
                }
                session.quit().await;
            });
            return results;
        }
        use smtp_blocking::Session;
        let session = match self.in_memory {
            true => Session::connect_over(server, receiver.stream()),
            false => Session::connect(server),
        };
        let mut session = match session {
            Ok(session) => session,
            Err(error) => return vec![Err(error)],
        };
        for _ in 0..times {
            results.push(session.send(envelope(), MESSAGE));
        }
        session.quit();
        results
    }

    /// The outcome of one message, and its stage.
    fn outcome(self, receiver: &Receiver) -> (Option<Outcome>, Option<Stage>) {
        self.outcome_with(receiver, &receiver.server())
    }

    fn outcome_with(
        self,
        receiver: &Receiver,
        server: &Server,
    ) -> (Option<Outcome>, Option<Stage>) {
        match self.send(receiver, server, 1).remove(0) {
            Ok(report) => {
                let failure = report.failures().next();
                (report.outcome(), failure.map(|failure| failure.error.stage))
            }
            Err(error) => (Some(error.outcome()), Some(error.stage())),
        }
    }
}

#[test]
fn what_was_taken_can_be_read() {
    each_way(&Options::default(), |way, receiver| {
        let results = way.send(receiver, &receiver.server(), 2);
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().unwrap().is_success())
        );
        let taken = receiver.messages();
        assert_eq!(taken.len(), 2);
        for message in &taken {
            assert_eq!(message.content(), MESSAGE);
            assert_eq!(message.reverse_path, "alice@example.org");
            assert_eq!(message.forward_paths, ["bob@example.net"]);
            assert_eq!(
                (message.session, message.tls, &message.path),
                (1, true, &None)
            );
        }
        assert!(receiver.wait_until(PATIENCE, |counts| (counts.quits, counts.open) == (1, 0)));
        let counts = receiver.counts();
        assert_eq!((counts.sessions, counts.peak, counts.messages), (1, 1, 2));
        let commands = receiver.commands();
        let verbs = commands
            .iter()
            .map(|command| command.line.split(' ').next().unwrap());
        assert!(verbs.eq("EHLO STARTTLS EHLO MAIL RCPT BDAT MAIL RCPT BDAT QUIT".split(' ')));
        let second = HeardCommand {
            session: 1,
            line: "STARTTLS".to_owned(),
        };
        assert_eq!(commands[1], second);
    });
}

#[test]
fn each_step_can_be_refused() {
    each_way(&Options::default(), |way, receiver| {
        for (step, text, stage) in [
            (Step::Greeting, "", Stage::Greeting),
            (Step::Hello, "", Stage::Ehlo),
            (Step::Mail, "alice@", Stage::Mail),
            (Step::Rcpt, "bob@", Stage::Rcpt),
            (Step::EndOfData, "\r\n.Hello", Stage::EndOfMessage),
        ] {
            receiver.on(step).with(text).reply("554 5.7.1 not here");
            receiver.on(step).with("carol@").reply("250 2.0.0 never");
            let stage = (Some(Outcome::Permanent), Some(stage));
            assert_eq!(way.outcome(receiver), stage, "{step:?} {way:?}");
            receiver.forget_rules();
        }
        assert_eq!(receiver.counts().messages, 0);
        // DATA is its own step, if the body does not go in chunks.
        let server = receiver.server().chunking(smtp_blocking::Chunking::Never);
        receiver.on(Step::Data).once().reply("451 4.3.0 later");
        let later = (Some(Outcome::Transient), Some(Stage::Data));
        assert_eq!(way.outcome_with(receiver, &server), later);
        assert_eq!(way.outcome_with(receiver, &server).0, None);
        receiver.on(Step::EndOfData).once().reply("452 4.2.2 full");
        let later = (Some(Outcome::Transient), Some(Stage::EndOfMessage));
        assert_eq!(way.outcome_with(receiver, &server), later);
        assert_eq!(receiver.stored(0), MESSAGE);
        assert_eq!(receiver.counts().messages, 1);
    });
}

#[test]
fn a_reply_of_ones_choice_stands_for_the_own_one() {
    each_way(&Options::default(), |way, receiver| {
        receiver
            .on(Step::Hello)
            .reply("250-mx.example.net\n250 SIZE 1000");
        receiver
            .on(Step::EndOfData)
            .reply("250 2.6.0 queued as 7\n");
        let report = way.send(receiver, &receiver.server(), 1).remove(0).unwrap();
        let reply = report.recipients[0].as_ref().unwrap();
        assert_eq!(reply.to_string(), "250 2.6.0 queued as 7");
        let taken = receiver.messages().remove(0);
        // It does not offer anything more.
        let size = format!("SIZE={}", MESSAGE.len());
        assert_eq!((taken.mail_parameters, taken.tls), (size, false));
        receiver.forget_rules();
        receiver
            .on(Step::Mail)
            .after(1)
            .reply("421 4.3.2 going down");
        let results = way.send(receiver, &receiver.server(), 2);
        assert!(results[0].as_ref().unwrap().is_success());
        assert_eq!(receiver.counts().messages, 2);
        assert!(receiver.wait_until(PATIENCE, |counts| counts.open == 0));
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.outcome(), Outcome::Transient, "{error}");
    });
}

#[test]
fn connections_are_cut_where_it_is_wanted() {
    each_way(&Options::default(), |way, receiver| {
        receiver.on(Step::Mail).once().cut_before();
        assert_eq!(
            way.outcome(receiver),
            (Some(Outcome::Transient), Some(Stage::Mail))
        );
        receiver.on(Step::EndOfData).once().cut_before();
        assert_eq!(
            way.outcome(receiver),
            (Some(Outcome::InDoubt), Some(Stage::EndOfMessage))
        );
        assert_eq!(receiver.counts().messages, 0);

        receiver.on(Step::EndOfData).once().cut_unanswered();
        assert_eq!(
            way.outcome(receiver),
            (Some(Outcome::InDoubt), Some(Stage::EndOfMessage))
        );
        assert!(receiver.wait_until(PATIENCE, |counts| counts.messages == 1));

        receiver.on(Step::EndOfData).once().cut_after();
        assert_eq!(way.outcome(receiver).0, None);
        assert_eq!(receiver.counts().messages, 2);

        receiver.on(Step::Greeting).once().cut_after();
        assert_eq!(
            way.outcome(receiver),
            (Some(Outcome::Transient), Some(Stage::Ehlo))
        );
        receiver.on(Step::Body).once().cut_after_octets(10);
        assert_eq!(
            way.outcome(receiver),
            (Some(Outcome::InDoubt), Some(Stage::EndOfMessage))
        );
        assert_eq!(way.outcome(receiver).0, None);
        assert_eq!(receiver.counts().messages, 3);
    });
}

#[test]
fn delays_and_silence_run_into_the_clients_deadline() {
    each_way(&Options::default(), |way, receiver| {
        let short = smtp_blocking::Timeouts::default().replies(Duration::from_millis(200));
        let server = receiver.server().timeouts(short);
        receiver
            .on(Step::Mail)
            .once()
            .delay(Duration::from_secs(3_600));
        let late = (Some(Outcome::Transient), Some(Stage::Mail));
        assert_eq!(way.outcome_with(receiver, &server), late);
        receiver.on(Step::Greeting).once().silence();
        let late = (Some(Outcome::Transient), Some(Stage::Greeting));
        assert_eq!(way.outcome_with(receiver, &server), late);
        // A delay within the client's timeout.
        receiver.on(Step::Rcpt).delay(Duration::from_millis(20));
        assert_eq!(way.outcome(receiver).0, None);
        // The first pause would last longer. The watchdog checks that it ends with the server.
    });
}

#[test]
fn a_session_may_bring_so_many_messages() {
    let options = Options {
        max_messages: Some(2),
        ..Options::default()
    };
    each_way(&options, |way, receiver| {
        let results = way.send(receiver, &receiver.server(), 3);
        let outcomes: Vec<_> = results
            .into_iter()
            .map(|result| {
                result.map_or_else(|error| Some(error.outcome()), |report| report.outcome())
            })
            .collect();
        assert_eq!(outcomes, [None, None, Some(Outcome::Transient)]);
        assert_eq!(receiver.counts().messages, 2);
    });
}

#[test]
fn logins_are_counted_and_tokens_expire() {
    for auth_by_token in [false, true] {
        let options = Options {
            auth: Some(("alice".to_owned(), "s3cret".to_owned())),
            auth_by_token,
            ..Options::default()
        };
        each_way(&options, |way, receiver| {
            assert_eq!(way.outcome(receiver).0, None);
            receiver.set_password("renewed");
            assert_eq!(way.outcome(receiver).1, Some(Stage::Auth));
            let server = receiver
                .server()
                .credentials(Credentials::token("alice", "renewed"));
            let server = match receiver.commands()[3].line.contains("SCRAM") {
                true => server.credentials(Credentials::password("alice", "renewed")),
                false => server,
            };
            assert_eq!(way.outcome_with(receiver, &server).0, None);
            let Counts {
                logins, logged_in, ..
            } = receiver.counts();
            assert!(logins >= 3 && logged_in == 2, "{logins} {logged_in}");
            // The client's responses are not recorded.
            let commands = receiver.commands();
            let mut logins = commands
                .iter()
                .filter(|command| command.line.starts_with("AUTH"));
            assert!(logins.all(|command| command.line.split(' ').count() == 2));
        });
    }
}

#[test]
fn connections_are_counted_as_the_client_has_them() {
    let receiver = Receiver::new();
    let server = receiver.server();
    let open = || smtp_blocking::Session::connect(&server).unwrap();
    let (first, second) = (open(), open());
    assert_eq!((receiver.counts().open, receiver.counts().peak), (2, 2));
    // One connection opens at the moment another one closes.
    drop((first, second));
    for _ in 0..20 {
        open().quit();
        drop(open());
    }
    let counts = receiver.counts();
    assert_eq!((counts.sessions, counts.peak), (42, 2));

    let mut idle = [open(), open()];
    receiver.cut_connections();
    assert_eq!(receiver.counts().open, 0);
    assert!(
        idle.iter_mut()
            .all(|idle| idle.send(envelope(), MESSAGE).is_err())
    );
    assert!(open().is_usable());
}

#[test]
fn files_go_with_their_server() -> io::Result<()> {
    let receiver = Receiver::start(Options {
        files: true,
        unix: true,
        lmtp: true,
        ..Options::default()
    })?;
    let folder = receiver.folder().unwrap().to_owned();
    let server = receiver.server().tls(TlsPolicy::Never);
    let mut session = smtp_blocking::Session::connect(&server).unwrap();
    assert!(session.send(envelope(), MESSAGE).unwrap().is_success());
    receiver
        .on(Step::EndOfData)
        .with("Hello")
        .reply("550 5.7.1 no");
    assert!(session.send(envelope(), MESSAGE).is_err());
    assert_eq!(receiver.stored(0), MESSAGE);
    let path = receiver.messages()[0].path.clone().unwrap();
    assert_eq!(path, folder.join("0001.eml"));
    drop((session, receiver));
    assert!(!folder.exists());
    Ok(())
}
