//! Mail as a server has stored it.

use std::path::Path;

use super::Kind;

/// A message as it was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its name in the server's queue. Within one session these sort by time of arrival.
    pub id: String,
    /// The addresses for which it was stored here.
    pub recipients: Vec<String>,
    /// The lines that the server put on top, unfolded.
    pub trace: String,
    /// The sent message, recovered: without the lines that the server put on top, and with CRLF for LF. Servers with
    /// a Unix spool store LF for CRLF.
    ///
    /// Postfix and Exim put an empty line before a message that does not begin with a header. It stays, because a
    /// message that begins with an empty line gives the same file.
    pub body: Vec<u8>,
}

impl Stored {
    pub(crate) fn parse(kind: &Kind, path: &Path, stored: &[u8]) -> Self {
        let (trace, sent) = split_trace(kind, stored);
        let trace = unfolded(trace);
        // `Received: ... id 4XYZ for ...` or `... id 1abc-0001-2d; ...`.
        let id = trace
            .rsplit_once(" id ")
            .and_then(|(_, rest)| rest.split([' ', ';']).next());
        let mut body = Vec::with_capacity(sent.len() + sent.len() / 32);
        for line in sent.split_inclusive(|&byte| byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) if !kind.stores_crlf => {
                    body.extend_from_slice(line);
                    body.extend_from_slice(b"\r\n");
                }
                _ => body.extend_from_slice(line),
            }
        }
        let (id, recipients) = (
            id.unwrap_or_default().into(),
            recipients(kind, path, &trace),
        );
        Self {
            id,
            recipients,
            trace,
            body,
        }
    }
}

fn unfolded(headers: &[u8]) -> String {
    String::from_utf8_lossy(headers)
        .replace("\n ", " ")
        .replace("\n\t", " ")
}

pub(super) fn recipients(kind: &Kind, path: &Path, trace: &str) -> Vec<String> {
    let list = match kind.recipients {
        Some(header) => trace.lines().find_map(|line| line.strip_prefix(header)),
        None => path
            .parent()
            .and_then(|new| new.parent()?.file_name()?.to_str()),
    };
    list.unwrap_or_default()
        .split(',')
        .map(|address| address.trim().to_ascii_lowercase())
        .collect()
}

/// Splits the lines that the server put on top from the rest. The next Received line, if any, came with the message.
fn split_trace<'a>(kind: &Kind, stored: &'a [u8]) -> (&'a [u8], &'a [u8]) {
    let mut names = kind.headers.iter();
    let mut length = 0;
    for line in stored.split_inclusive(|&byte| byte == b'\n') {
        let folded = length > 0 && (line.starts_with(b" ") || line.starts_with(b"\t"));
        if !folded && !names.any(|name| line.starts_with(name.as_bytes())) {
            break;
        }
        length += line.len();
    }
    stored.split_at(length)
}
