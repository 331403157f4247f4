//! How much of the replies one report keeps. So a server cannot fill the memory with refusals.

use crate::config::Limits;
use crate::reply::{Reply, ReplyRef};

/// The octets that a reply may always take, even if the others have used up the limit.
const LEAST: usize = 128;

#[derive(Debug, Default)]
pub(crate) struct Kept {
    octets: usize,
    /// Most refusals equal the one before, and share its text.
    last: Option<Reply>,
}

impl Kept {
    /// The reply, cut to the room that is left.
    pub(crate) fn keep(&mut self, reply: ReplyRef<'_>, limits: &Limits) -> Reply {
        if let Some(last) = &self.last
            && last.borrow() == reply
        {
            return last.clone();
        }
        let left = limits.report.saturating_sub(self.octets);
        let reply = reply.cut(limits.reply_kept.min(left.max(LEAST)));
        self.octets += reply.text().len();
        self.last = Some(reply.clone());
        reply
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::ReplyCode;
    use alloc::string::ToString;

    #[test]
    fn a_report_keeps_so_much_of_each_reply_and_of_all() {
        let limits = Limits::default();
        let code = ReplyCode::new(550).unwrap();
        let mut kept = Kept::default();
        let mut octets = 0;
        // Miri is slow.
        let count = if cfg!(miri) { 40 } else { 1_000 };
        for n in 0..count {
            let line = alloc::format!("5.1.1 <user{n}@example.net> is not known here\n");
            let reply = Reply::new(code, line.repeat(300).as_bytes());
            let first = kept.keep(reply.borrow(), &limits);
            assert!(first.text().len() <= limits.reply_kept);
            assert!(first.text().ends_with(b"\n[cut]"), "{first}");
            assert_eq!(first.enhanced().unwrap().to_string(), "5.1.1");
            octets += first.text().len();
        }
        assert!(octets <= limits.report + count * LEAST, "{octets}");
        let reply = Reply::new(code, b"no");
        let (first, second) = (
            kept.keep(reply.borrow(), &limits),
            kept.keep(reply.borrow(), &limits),
        );
        assert_eq!(
            first.text().as_ptr(),
            second.text().as_ptr(),
            "equal texts are shared"
        );
    }
}
