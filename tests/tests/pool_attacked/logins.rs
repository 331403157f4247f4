//! What must not lock an account.

use std::time::Instant;

use smtp_proto::Credentials;

use crate::both::*;

fn receiver_with_login() -> Receiver {
    receiver(Options {
        auth: Some(("alice".into(), "right".into())),
        auth_in_clear: true,
        ..Options::default()
    })
}

/// Many servers do not answer a wrong password: they hang up.
#[test]
fn a_server_that_hangs_up_on_a_login_hears_it_once() {
    for_both(|adapter| {
        for is_answered in [false, true] {
            let receiver = receiver_with_login();
            match is_answered {
                false => receiver.on(Step::Login).cut_unanswered(),
                true => receiver.on(Step::Login).reply("421 4.7.0 too many errors"),
            }
            let wrong = Credentials::password("alice", "wrong").permit_in_clear();
            let pool = Pool::new(adapter, receiver.server().credentials(wrong), 4);
            let begun = Instant::now();
            for result in pool.send_each(0..50) {
                let error = result.unwrap_err();
                assert_eq!(error.stage(), smtp_proto::Stage::Auth, "{error}");
                assert_eq!(
                    error.outcome(),
                    smtp_proto::Outcome::NotAttempted,
                    "{error}"
                );
            }
            let sent = pool.send_numbers(100..200);
            assert_eq!(sent.reports.len() + sent.left.len(), 100);
            assert!(sent.reports().all(|report| !report.is_success()));
            // On a machine that is so slow, the pool may try again after each pause.
            let pauses = begun.elapsed().as_secs() / 5;
            assert!(heard(&receiver, "AUTH") as u64 <= 1 + pauses);
        }
    });
}
