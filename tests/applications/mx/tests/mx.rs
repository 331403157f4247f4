//! Which host gets a message. The name server and the hosts are in this process, so a network is not needed.

use smtp_mx::zone::{Entry, a, mx, resolver};
use smtp_mx::{Error, deliver, hosts};
use smtp_tests::receiver::{Receiver, Step};
use smtp_tokio::{Envelope, Report};

const UP: [u8; 4] = [127, 0, 0, 1];
/// Nothing listens here.
const DOWN: [u8; 4] = [127, 0, 0, 2];

/// Sends a message to bob at this domain. Each host that is up is this receiver.
async fn send(entries: Vec<Entry>, domain: &str, receiver: &Receiver) -> Result<Report, Error> {
    let resolver = resolver(entries).unwrap();
    let envelope = Envelope::new("alice@example.org", [format!("bob@{domain}")]).unwrap();
    let port = receiver.local_addr().port();
    deliver(
        &resolver,
        domain,
        port,
        envelope,
        b"Subject: hello\r\n\r\nHello.\r\n",
    )
    .await
}

#[tokio::test]
async fn the_host_with_the_lowest_preference_comes_first() {
    let resolver = resolver(vec![
        mx("example.net", 20, "c.example.net"),
        mx("example.net", 5, "a.example.net"),
        mx("example.net", 10, "b.example.net"),
    ]);
    let hosts = hosts(&resolver.unwrap(), "example.net").await.unwrap();
    let hosts: Vec<_> = hosts.iter().map(ToString::to_string).collect();
    assert_eq!(
        hosts,
        ["a.example.net.", "b.example.net.", "c.example.net."]
    );
}

#[tokio::test]
async fn a_host_that_is_down_is_passed_over() {
    let receiver = Receiver::new();
    let entries = vec![
        mx("example.net", 10, "down.example.net"),
        mx("example.net", 20, "nowhere.example.net"),
        mx("example.net", 30, "up.example.net"),
        a("down.example.net", DOWN),
        a("up.example.net", UP),
    ];
    assert!(
        send(entries, "example.net", &receiver)
            .await
            .unwrap()
            .is_success()
    );
    assert_eq!(receiver.messages()[0].forward_paths, ["bob@example.net"]);
}

#[tokio::test]
async fn a_null_mx_and_a_domain_that_is_not_there_take_no_mail() {
    let receiver = Receiver::new();
    for domain in ["example.com", "not-there.example.com"] {
        let entries = vec![mx("example.com", 0, "."), a("example.com", UP)];
        let error = send(entries, domain, &receiver).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{domain} takes no mail (permanent)")
        );
    }
    assert_eq!(receiver.counts().sessions, 0);
}

#[tokio::test]
async fn a_domain_without_mx_is_its_own_host() {
    let receiver = Receiver::new();
    let sent = send(vec![a("example.net", UP)], "example.net", &receiver).await;
    assert!(sent.unwrap().is_success());
    assert_eq!(receiver.counts().messages, 1);
}

#[tokio::test]
async fn each_address_of_a_host_is_tried() {
    let receiver = Receiver::new();
    let entries = vec![
        mx("example.net", 10, "mx.example.net"),
        a("mx.example.net", DOWN),
        a("mx.example.net", [127, 0, 0, 3]),
        a("mx.example.net", UP),
    ];
    assert!(
        send(entries, "example.net", &receiver)
            .await
            .unwrap()
            .is_success()
    );
    assert_eq!(receiver.counts().messages, 1);
}

#[tokio::test]
async fn a_message_goes_encrypted_where_it_can_and_else_in_the_clear() {
    for breaks in [false, true] {
        let receiver = Receiver::new();
        if breaks {
            receiver.on(Step::StartTls).cut_after();
        }
        let sent = send(vec![a("example.net", UP)], "example.net", &receiver).await;
        assert!(sent.unwrap().is_success());
        assert_eq!(receiver.messages()[0].tls, !breaks);
        assert_eq!(receiver.counts().sessions, 1 + usize::from(breaks));
    }
}

/// A refusal of the message holds for all hosts, and a message in doubt is sent once.
#[tokio::test]
async fn a_refused_message_and_one_in_doubt_are_not_sent_to_the_next_host() {
    for in_doubt in [false, true] {
        let receiver = Receiver::new();
        match in_doubt {
            true => receiver.on(Step::EndOfData).cut_unanswered(),
            false => receiver.on(Step::Rcpt).reply("550 5.1.1 no such user"),
        }
        let entries = vec![
            mx("example.net", 10, "mx1.example.net"),
            mx("example.net", 20, "mx2.example.net"),
            a("mx1.example.net", UP),
            a("mx2.example.net", UP),
        ];
        let Err(Error::Smtp(error)) = send(entries, "example.net", &receiver).await else {
            panic!("it is sent");
        };
        assert_eq!(
            (error.is_permanent(), error.is_in_doubt()),
            (!in_doubt, in_doubt)
        );
        assert_eq!(receiver.counts().sessions, 1);
    }
}
