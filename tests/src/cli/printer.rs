//! The output for each message, and for all of them.

use std::process::ExitCode;
use std::time::Instant;

use serde_json::{Value, json};
use smtp_proto::{Reply, Stage, reply::Printable};

use super::options::Options;
use super::output::{complain, say};
use super::verdict::{Ending, Fate, SessionFacts, Verdict, overall};

/// Prints the results of the messages, as the options ask.
#[derive(Debug)]
pub struct Printer<'a> {
    options: &'a Options,
    start: Instant,
    messages: u64,
    /// How many messages had each fate, in the order of [`Fate::ALL`].
    counts: [u64; Fate::ALL.len()],
    /// The first failure of each kind.
    failures: Vec<Verdict>,
    partial: bool,
    /// The object of a single message, which must be the last line.
    last_line: Option<Value>,
}

impl<'a> Printer<'a> {
    /// A printer, before the session begins.
    pub fn new(options: &'a Options) -> Self {
        Self {
            options,
            start: Instant::now(),
            messages: 0,
            counts: [0; Fate::ALL.len()],
            failures: Vec::new(),
            partial: false,
            last_line: None,
        }
    }

    /// How often all messages are sent.
    pub(super) fn repeat(&self) -> usize {
        self.options.repeat as usize
    }

    /// A message has ended. In a bulk delivery, it is printed at once.
    pub fn message(&mut self, ending: &Ending, facts: &SessionFacts) {
        self.messages += 1;
        let (options, bulk) = (self.options, self.options.is_bulk());
        let verdicts = ending.verdicts(options);
        let failures: Vec<_> = verdicts.iter().filter(|verdict| verdict.failed()).collect();
        let is_partial = failures.len() < verdicts.len();
        let decisive = Verdict::decisive(failures.iter().copied());
        let overall = overall(decisive, is_partial);
        let fate = Fate::of(&verdicts);
        self.counts[fate as usize] += 1;
        self.partial |= is_partial;
        for &verdict in &failures {
            if !self
                .failures
                .iter()
                .any(|known| known.kind() == verdict.kind())
            {
                self.failures.push(verdict.clone());
            }
        }
        let error = decisive.map(|decisive| match overall {
            "partial" => {
                format!(
                    "{} of {} recipients failed: {}",
                    failures.len(),
                    verdicts.len(),
                    decisive.line
                )
            }
            _ => decisive.line.clone(),
        });
        if !options.json && !options.quiet {
            match bulk {
                true => say(format_args!(
                    "message {}: {}: {}",
                    self.messages,
                    fate.words(),
                    told(options, &verdicts)
                )),
                false => {
                    for (address, verdict) in options.to.iter().zip(&verdicts) {
                        let address = Printable(address.as_bytes());
                        say(format_args!("{address}: {}", verdict.line));
                    }
                }
            }
        }
        if let Some(error) = &error
            && (options.json || options.quiet)
        {
            let number = match bulk {
                true => format!("message {}: ", self.messages),
                false => String::new(),
            };
            complain(format_args!("{number}{error}"));
        }
        if options.json {
            let mut object = json!({
                "outcome": overall,
                "stage": decisive.and_then(|verdict| verdict.stage).map(Stage::as_str),
                "maybe_delivered": verdicts.iter().any(|verdict| verdict.maybe_delivered),
                "recipients": recipients(options, &verdicts),
                "tls": tls(facts),
                "round_trips": facts.round_trips,
                "error": error,
            });
            if let (true, Some(members)) = (bulk, object.as_object_mut()) {
                members.insert("message".into(), self.messages.into());
                say(format_args!("{object}"));
            } else {
                self.last_line = Some(object);
            }
        }
    }

    /// The session is over. Prints the summary of a bulk delivery, and returns the exit code.
    pub fn conclude(self, facts: &SessionFacts) -> ExitCode {
        let decisive = Verdict::decisive(&self.failures);
        let outcome = overall(decisive, self.partial);
        let seconds = self.start.elapsed().as_secs_f64();
        if self.options.is_bulk() {
            if self.options.json {
                let mut summary = json!({
                    "messages": self.messages,
                    "outcome": outcome,
                    "overlap_broken": facts.overlap_broken,
                    "tls": tls(facts),
                    "round_trips": facts.round_trips,
                    "seconds": seconds,
                });
                for fate in Fate::ALL {
                    summary[fate.key()] = self.counts[fate as usize].into();
                }
                say(format_args!("{summary}"));
            } else if !self.options.quiet {
                let mut counts = format!("{} of {} delivered", self.counts[0], self.messages);
                for fate in &Fate::ALL[1..] {
                    match self.counts[*fate as usize] {
                        0 => {}
                        count => counts += &format!(", {count} {}", fate.words()),
                    }
                }
                let trips = facts.round_trips;
                say(format_args!(
                    "{counts}, {trips} round trips, {seconds:.3} s"
                ));
            }
        }
        if let Some(object) = &self.last_line {
            say(format_args!("{object}"));
        }
        ExitCode::from(decisive.map_or(0, |verdict| verdict.exit_code(self.partial)))
    }
}

/// The results of the recipients, in one line. Recipients with the same result are listed together.
fn told(options: &Options, verdicts: &[Verdict]) -> String {
    let mut groups: Vec<(String, &str)> = Vec::new();
    for (address, verdict) in options.to.iter().zip(verdicts) {
        let address = Printable(address.as_bytes());
        match groups.last_mut() {
            Some((addresses, line)) if *line == verdict.line => {
                *addresses += &format!(", {address}")
            }
            _ => groups.push((address.to_string(), &verdict.line)),
        }
    }
    match &groups[..] {
        [(_, line)] => (*line).to_owned(),
        groups => {
            let groups = groups
                .iter()
                .map(|(addresses, line)| format!("{addresses}: {line}"));
            groups.collect::<Vec<_>>().join("; ")
        }
    }
}

fn recipients(options: &Options, verdicts: &[Verdict]) -> Vec<Value> {
    let recipient = |(address, verdict): (&String, &Verdict)| {
        json!({
            "address": address,
            "outcome": verdict.outcome,
            "stage": verdict.stage.map(Stage::as_str),
            "code": verdict.reply.as_ref().map(|reply| reply.code().get()),
            "enhanced": verdict.reply.as_ref().and_then(Reply::enhanced).map(|code| code.to_string()),
            "text": verdict.reply.as_ref().map(text_of),
        })
    };
    options.to.iter().zip(verdicts).map(recipient).collect()
}

fn tls(facts: &SessionFacts) -> Value {
    match &facts.tls {
        None => Value::Null,
        Some(tls) => json!({
            "version": tls.version,
            "cipher": tls.cipher_suite,
            "verified": tls.verified_name.is_some(),
            "name": tls.verified_name,
        }),
    }
}

fn text_of(reply: &Reply) -> String {
    let lines: Vec<String> = reply
        .lines()
        .map(|line| Printable(line).to_string())
        .collect();
    lines.join("\n")
}
