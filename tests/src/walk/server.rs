//! The server's possible replies, and their meaning in the records.

use smtp_proto::Protocol;

use super::books::{Books, Ending, Kind, Said};
use super::letter::Answer;
use super::scene::Scene;

/// The required effect on the session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may go on, drain, or send QUIT.
    Open,
    /// It has ended.
    Ends,
    /// As `Open`, and a body follows.
    BeginsData,
}

/// All replies that the server can give now.
pub(crate) fn answers(books: &Books, scene: &Scene) -> Vec<Answer> {
    use Answer as A;
    let mut answers = vec![A::Yes, A::No, A::Leaving, A::Goodbye, A::Garbage];
    let Some(owed) = books.front() else {
        return answers;
    };
    answers.push(A::Later);
    match owed.kind {
        Kind::AuthCancel => {}
        Kind::Hello => answers.extend([A::WrongClass, A::Bare, A::Unknown]),
        Kind::Auth => answers.extend([A::WrongClass, A::GoOn, A::OtherMechanism]),
        Kind::Rcpt(_) if scene.says_full => answers.extend([A::WrongClass, A::Full]),
        Kind::Mail if owed.overlaps => answers.extend([A::WrongClass, A::BadSequence]),
        Kind::End if is_prdr(books, owed.transaction) => answers.push(A::GoOn),
        _ => answers.push(A::WrongClass),
    }
    if books.owed.len() == 1 {
        answers.push(A::YesAndSurplus);
    }
    answers
}

fn is_prdr(books: &Books, transaction: Option<usize>) -> bool {
    let transaction = transaction.map(|number| &books.transactions[number]);
    transaction.is_some_and(|transaction| transaction.prdr && !transaction.lone_dot)
}

fn code(answer: Answer, kind: Option<Kind>) -> u16 {
    match (answer, kind) {
        (Answer::Yes | Answer::YesAndSurplus, Some(kind)) => match kind {
            Kind::Greeting | Kind::StartTls => 220,
            Kind::Auth => 235,
            Kind::AuthCancel => 501,
            Kind::Data => 354,
            _ => 250,
        },
        (Answer::Yes | Answer::YesAndSurplus | Answer::Bare, _) => 250,
        (Answer::Unknown, _) => 500,
        (Answer::Later, _) => 450,
        (Answer::No, _) => 550,
        (Answer::Full, _) => 452,
        (Answer::BadSequence, _) => 503,
        (Answer::GoOn, Some(Kind::Auth)) => 334,
        (Answer::GoOn, _) => 353,
        (Answer::OtherMechanism, _) => 504,
        (Answer::WrongClass, Some(Kind::Data | Kind::Auth)) => 250,
        (Answer::WrongClass, _) => 354,
        (Answer::Leaving, _) => 421,
        (Answer::Goodbye, _) => 221,
        (Answer::Garbage, _) => 0,
    }
}

/// The octets of this answer, and its effect.
pub(crate) fn say(answer: Answer, books: &mut Books, scene: &Scene) -> (Vec<u8>, Effect) {
    let owed = books.front().copied();
    let kind = owed.map(|owed| owed.kind);
    let code = code(answer, kind);
    let index = books.said.len();
    let text = format!("t{index}");
    let mut octets = format!("{code} {text}\r\n").into_bytes();
    if answer == Answer::Garbage {
        books.ending = Some(Ending::Other);
        return (b"what?\r\n".to_vec(), Effect::Ends);
    }
    books.said.push(Said { code, text });
    let answered = owed.map(|owed| (owed.kind, owed.transaction));
    match answer {
        Answer::Leaving => {
            books.ending = Some(Ending::Said(index, answered));
            return (octets, Effect::Ends);
        }
        Answer::Goodbye => {
            // The final reply may still come.
            books.goodbye.get_or_insert(index);
            return (octets, Effect::Open);
        }
        Answer::WrongClass => {
            books.ending = Some(Ending::Other);
            return (octets, Effect::Ends);
        }
        _ => {}
    }
    let Some(owed) = owed else {
        books.ending = Some(Ending::Said(index, None));
        return (octets, Effect::Ends);
    };
    if books.handshake.is_some() {
        books.ending = Some(Ending::Other);
        return (octets, Effect::Ends);
    }
    books.owed.pop_front();
    if owed.kind == Kind::Hello && code == 250 {
        octets = hello(answer, books, scene);
    }
    let mut effect = answered_by(owed.kind, owed.transaction, index, answer, books, scene);
    if answer == Answer::YesAndSurplus {
        let index = books.said.len();
        let text = format!("t{index}");
        octets.extend_from_slice(format!("250 {text}\r\n").as_bytes());
        books.said.push(Said { code: 250, text });
        books.ending = Some(Ending::Said(index, None));
        effect = Effect::Ends;
    }
    (octets, effect)
}

fn hello(answer: Answer, books: &mut Books, scene: &Scene) -> Vec<u8> {
    let offer = match answer {
        Answer::Bare => &[],
        _ => scene.offers[usize::from(books.tls.is_some())],
    };
    books.offer = offer;
    let mut text = String::from("250-mx\r\n");
    for line in offer {
        text += &format!("250-{line}\r\n");
    }
    text += "250 HELP\r\n";
    text.into_bytes()
}

/// The meaning of a reply to this command, of a class that can answer.
fn answered_by(
    kind: Kind,
    number: Option<usize>,
    index: usize,
    answer: Answer,
    books: &mut Books,
    scene: &Scene,
) -> Effect {
    let code = books.said[index].code;
    let yes = code < 400;
    let is_lmtp = scene.config.protocol == Protocol::Lmtp;
    let is_usable = number.is_some_and(|number| {
        let mail = books.transactions[number].mail;
        mail.is_some_and(|mail| books.code(mail) < 300) && books.accepted(number).next().is_some()
    });
    match kind {
        Kind::Greeting | Kind::AuthCancel => return Effect::Open,
        Kind::Hello | Kind::Helo => {
            books.has_hello = yes;
            books.ehlo_unknown = code == 500;
            return Effect::Open;
        }
        Kind::StartTls => {
            if yes {
                books.offer = &[];
                books.has_hello = false;
                books.auth_lines = 0;
                books.handshake = Some(books.last_reply);
            }
            return Effect::Open;
        }
        Kind::Auth => {
            books.in_auth = code == 334;
            books.logged_in = code == 235;
            return Effect::Open;
        }
        Kind::Rset => {
            books.holds &= !yes;
            return Effect::Open;
        }
        Kind::Request(request) => {
            books.requests[request].1 = Some(index);
            return Effect::Open;
        }
        _ => {}
    }
    let Some(number) = number else {
        return Effect::Open;
    };
    let transaction = &mut books.transactions[number];
    match kind {
        Kind::Mail => {
            transaction.mail = Some(index);
            books.holds = yes;
        }
        Kind::Rcpt(recipient) => {
            let named = transaction
                .named
                .iter_mut()
                .find(|(named, _)| *named == recipient);
            if let Some((_, reply)) = named {
                *reply = Some(index);
            }
        }
        Kind::Data => {
            transaction.data = Some(index);
            // An LMTP server may or may not answer a body for nobody.
            if yes && !is_usable && is_lmtp {
                books.ending = Some(Ending::Other);
                return Effect::Ends;
            }
            if yes {
                return Effect::BeginsData;
            }
        }
        // The first failure counts.
        Kind::Chunk if !yes && !transaction.given_up => {
            transaction.refused_chunk.get_or_insert(index);
        }
        Kind::End if answer == Answer::GoOn => {
            let accepted: Vec<_> = books.accepted(number).collect();
            let first = books.owed.front().copied();
            let end = first.map_or(books.given, |first| first.end.min(books.given));
            let owed = |kind| super::books::Owed {
                kind,
                transaction: Some(number),
                end,
                octets: 0,
                written: Some(books.last_reply),
                overlaps: false,
            };
            let each = accepted.into_iter().map(Kind::EndFor);
            let all: Vec<_> = each.chain([Kind::EndOfAll]).map(owed).collect();
            for owed in all.into_iter().rev() {
                books.owed.push_front(owed);
            }
        }
        Kind::End | Kind::EndOfAll => {
            transaction.of_all = Some(index);
            transaction.decided = true;
            books.holds = false;
        }
        Kind::EndFor(recipient) => {
            transaction.of_each.push((recipient, index));
            // The server then answers once or for each recipient: RFC 2033 does not define it for BDAT.
            if is_lmtp && transaction.refused_chunk.is_some() {
                books.owed.retain(|owed| owed.transaction != Some(number));
            }
            let is_more = books
                .owed
                .iter()
                .any(|owed| owed.transaction == Some(number));
            if !is_more {
                transaction.decided = true;
                books.holds = false;
            }
        }
        _ => {}
    }
    Effect::Open
}
