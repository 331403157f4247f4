//! A composed message arrives octet for octet: by DATA and by BDAT, from memory and as a stream.

use lettre::message::header;
use lettre::message::{Attachment, MultiPart, SinglePart};
use mail_builder::MessageBuilder;
use mail_builder::headers::content_type::ContentType;
use mail_builder::mime::MimePart;
use smtp_blocking::{Envelope, Message, Server, Session, TlsPolicy};
use smtp_compose::{envelope_of, send_built, send_lettre, send_lettre_async, stream_built};
use smtp_tests::receiver::{Options, Receiver};

/// Dots at the start of lines, a line end at the end, and letters beyond ASCII.
const TEXT: &str = "Hello Bob,\n.\n..\n.hidden\nGr\u{fc}\u{df}e\n";

fn receiver(chunking: bool) -> (Receiver, Server) {
    let receiver = Receiver::start(Options {
        chunking,
        ..Options::default()
    })
    .unwrap();
    let server = Server::new(receiver.local_addr().to_string()).tls(TlsPolicy::Never);
    (receiver, server)
}

/// The boundary is fixed, because mail-builder makes a new one each time.
fn built() -> MessageBuilder<'static> {
    let all: Vec<u8> = (0..=255).collect();
    MessageBuilder::new()
        .from(("Alice \u{c4}", "alice@example.org"))
        .to(vec![("Bob", "bob@example.net"), ("", "carol@example.net")])
        .subject(
            "Caf\u{e9} \u{2615}, and a subject that is long enough to be folded, I should think",
        )
        .date(1_798_000_000_i64)
        .message_id("4711@example.org")
        .body(MimePart::new(
            ContentType::new("multipart/mixed").attribute("boundary", "between"),
            vec![
                MimePart::new("text/plain", TEXT),
                MimePart::new("text/html", "<p>Hello <b>Bob</b></p>\n.\n"),
                MimePart::new("application/octet-stream", all).attachment("all.bin"),
            ],
        ))
}

fn by_lettre() -> lettre::Message {
    lettre::Message::builder()
        .from("Alice \u{c4} <alice@example.org>".parse().unwrap())
        .to("Bob <bob@example.net>".parse().unwrap())
        .bcc("carol@example.net".parse().unwrap())
        .subject("Caf\u{e9} \u{2615}")
        .message_id(Some("<4712@example.org>".into()))
        .multipart(
            MultiPart::mixed()
                .multipart(MultiPart::alternative_plain_html(
                    TEXT.to_owned(),
                    "<p>Hello <b>Bob</b></p>\n.\n".to_owned(),
                ))
                .singlepart(SinglePart::plain(TEXT.to_owned()))
                .singlepart(Attachment::new("all.bin".into()).body(
                    (0..=255).collect::<Vec<u8>>(),
                    header::ContentType::parse("application/octet-stream").unwrap(),
                )),
        )
        .unwrap()
}

/// The server has these octets, and knew their number before.
#[track_caller]
fn took(receiver: &Receiver, index: usize, octets: &[u8], has_size: bool) {
    assert!(!octets.is_empty());
    let stored = receiver.stored(index);
    assert_eq!(
        stored.escape_ascii().to_string(),
        octets.escape_ascii().to_string()
    );
    let size = format!("SIZE={}", octets.len());
    let parameters = &receiver.messages()[index].mail_parameters;
    assert_eq!(
        parameters.split(' ').any(|one| one == size),
        has_size,
        "{parameters}"
    );
}

#[test]
fn mail_builder() {
    for chunking in [false, true] {
        let (receiver, server) = receiver(chunking);
        let mut session = Session::connect(&server).unwrap();
        let message = built();
        let octets = message.clone().write_to_vec().unwrap();
        let envelope = || {
            Envelope::new(
                "alice@example.org",
                ["bob@example.net", "carol@example.net"],
            )
            .unwrap()
        };
        let report = send_built(&mut session, envelope(), message.clone()).unwrap();
        assert!(report.is_success());
        let report = stream_built(&mut session, envelope(), message).unwrap();
        assert!(report.is_success());
        took(&receiver, 0, &octets, true);
        took(&receiver, 1, &octets, false);
    }
}

#[tokio::test]
async fn lettre_by_both_adapters() {
    for chunking in [false, true] {
        let (receiver, server) = receiver(chunking);
        let message = by_lettre();
        let octets = message.formatted();
        let mut session = Session::connect(&server).unwrap();
        assert!(send_lettre(&mut session, &message).unwrap().is_success());
        let mut session = smtp_tokio::Session::connect(&server).await.unwrap();
        let report = send_lettre_async(&mut session, &message).await.unwrap();
        let mailboxes: Vec<_> = report.mailboxes().iter().map(|to| to.as_str()).collect();
        assert_eq!(mailboxes, ["bob@example.net", "carol@example.net"]);
        assert!(report.is_success());
        took(&receiver, 0, &octets, true);
        took(&receiver, 1, &octets, true);
        // The recipients of a blind copy are not in the message.
        assert!(!octets.escape_ascii().to_string().contains("carol"));
    }
}

/// A newsletter: each message is composed for its reader, who is its tag.
#[test]
fn many_by_one_session() {
    let (receiver, server) = receiver(true);
    let mut session = Session::connect(&server).unwrap();
    let readers = [
        "bob@example.net",
        "refused@example.net",
        "carol@example.net",
    ];
    let compose = |reader: &str| {
        MessageBuilder::new()
            .from("news@example.org")
            .to(reader)
            .subject("News")
            .text_body(format!("Hello {reader}\n.\n"))
            .write_to_vec()
            .unwrap()
    };
    let composed = readers.map(compose);
    let messages = readers.into_iter().zip(&composed).map(|(reader, octets)| {
        let envelope = Envelope::new("news@example.org", [reader]).unwrap();
        Message::from_bytes(envelope, &octets[..]).tag(reader)
    });
    let mut bulk = session.send_all(messages).and_quit();
    let told: Vec<_> = bulk
        .tagged()
        .map(|(reader, report)| (reader, report.is_success()))
        .collect();
    assert_eq!(
        told,
        [(readers[0], true), (readers[1], false), (readers[2], true)]
    );
    assert_eq!(receiver.messages().len(), 2);
    took(&receiver, 0, &composed[0], true);
    took(&receiver, 1, &composed[2], true);
}

#[test]
fn an_envelope_without_a_sender() {
    let address = "bob@example.net".parse().unwrap();
    let envelope = lettre::address::Envelope::new(None, vec![address]).unwrap();
    let message = lettre::Message::builder()
        .from("mailer-daemon@example.org".parse().unwrap())
        .envelope(envelope)
        .body(TEXT.to_owned())
        .unwrap();
    let envelope = envelope_of(&message).unwrap();
    assert!(envelope.reverse_path().is_null());
    assert_eq!(envelope.forward_paths()[0].as_str(), "bob@example.net");
}
