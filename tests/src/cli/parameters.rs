//! Parameters of MAIL and RCPT, in the form of `--param` and `--rcpt-param`.

use smtp_proto::Mailbox;
use smtp_proto::parameter::{
    ByMode, MailParameter, Notify, ParameterError, RcptParameter, Ret, RrvsAction,
};

/// Why a flag cannot have this value.
type BadValue = Box<dyn std::error::Error>;

/// `NAME` or `NAME=VALUE`, for MAIL.
pub(crate) fn mail_parameter(text: &str) -> Result<MailParameter, BadValue> {
    let (name, value) = split_parameter(text);
    Ok(match (&*name.to_ascii_uppercase(), value) {
        ("RET", Some(value)) if value.eq_ignore_ascii_case("full") => MailParameter::ret(Ret::Full),
        ("RET", Some(value)) if value.eq_ignore_ascii_case("hdrs") => {
            MailParameter::ret(Ret::Headers)
        }
        ("RET", _) => return Err("RET is FULL or HDRS".into()),
        ("ENVID", value) => MailParameter::envelope_id(value.unwrap_or_default())?,
        ("BY", value) => {
            let (seconds, mode) = value.and_then(|by| by.split_once(';')).unwrap_or_default();
            let (mode, trace) = match &*mode.to_ascii_uppercase() {
                "R" => (ByMode::Return, false),
                "RT" => (ByMode::Return, true),
                "N" => (ByMode::Notify, false),
                "NT" => (ByMode::Notify, true),
                _ => {
                    return Err(
                        "BY is SECONDS;R or SECONDS;N, and a T after it asks for a trace".into(),
                    );
                }
            };
            MailParameter::deliver_by(number("BY", seconds)?, mode, trace)?
        }
        ("MT-PRIORITY", value) => {
            MailParameter::priority(number(name, value.unwrap_or_default())?)?
        }
        ("HOLDFOR", value) => MailParameter::hold_for(number(name, value.unwrap_or_default())?)?,
        ("HOLDUNTIL", value) => MailParameter::hold_until(value.unwrap_or_default())?,
        ("REQUIRETLS", None) => MailParameter::require_tls(),
        ("PRDR", None) => MailParameter::per_recipient_replies(),
        ("AUTH", Some(identity)) => MailParameter::auth(Some(&Mailbox::parse(identity)?)),
        _ => MailParameter::raw(name, value).map_err(without_calls)?,
    })
}

/// The same for RCPT.
pub(crate) fn rcpt_parameter(text: &str) -> Result<RcptParameter, BadValue> {
    let (name, value) = split_parameter(text);
    Ok(match (&*name.to_ascii_uppercase(), value) {
        ("NOTIFY", value) => RcptParameter::notify(notify(value.unwrap_or_default())?),
        ("ORCPT", value) => {
            let (kind, address) = value
                .and_then(|original| original.split_once(';'))
                .unwrap_or_default();
            RcptParameter::original_recipient_of(kind, address)?
        }
        ("RRVS", value) => {
            let value = value.unwrap_or_default();
            match value.split_once(';') {
                None => RcptParameter::valid_since(value, None)?,
                Some((date, "C" | "c")) => {
                    RcptParameter::valid_since(date, Some(RrvsAction::Continue))?
                }
                Some((date, "R" | "r")) => {
                    RcptParameter::valid_since(date, Some(RrvsAction::Reject))?
                }
                Some(_) => return Err("RRVS is a date-time, and ;C or ;R after it".into()),
            }
        }
        _ => RcptParameter::raw(name, value).map_err(without_calls)?,
    })
}

fn split_parameter(text: &str) -> (&str, Option<&str>) {
    text.split_once('=')
        .map_or((text, None), |(name, value)| (name, Some(value)))
}

fn number<N: std::str::FromStr>(name: &str, text: &str) -> Result<N, BadValue> {
    text.parse()
        .map_err(|_| format!("{name} needs a number, not \"{text}\"").into())
}

/// The engine's error names its own call. Here another option, or this program itself, does it.
fn without_calls(error: ParameterError) -> BadValue {
    match error {
        ParameterError::HasOwnCall { name, .. } => {
            format!("{name} cannot be given this way").into()
        }
        error => error.into(),
    }
}

pub(super) fn notify(list: &str) -> Result<Notify, BadValue> {
    if list.eq_ignore_ascii_case("never") {
        return Ok(Notify::NEVER);
    }
    list.split(',').try_fold(Notify::NEVER, |all, word| {
        match &*word.to_ascii_lowercase() {
            "success" => Ok(all | Notify::SUCCESS),
            "failure" => Ok(all | Notify::FAILURE),
            "delay" => Ok(all | Notify::DELAY),
            _ => Err("it is never, or a list of success, failure and delay".into()),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_written_as_given() {
        for (text, sent) in [
            ("ret=hdrs", "RET=HDRS"),
            ("ENVID=a b", "ENVID=a+20b"),
            ("BY=120;R", "BY=120;R"),
            ("BY=-5;nt", "BY=-5;NT"),
            ("MT-PRIORITY=-3", "MT-PRIORITY=-3"),
            ("HOLDFOR=60", "HOLDFOR=60"),
            (
                "HOLDUNTIL=2027-01-02T03:04:05Z",
                "HOLDUNTIL=2027-01-02T03:04:05Z",
            ),
            ("REQUIRETLS", "REQUIRETLS"),
            ("PRDR", "PRDR"),
            ("AUTH=<>", "AUTH=<>"),
            ("AUTH=e+s@b", "AUTH=e+2Bs@b"),
            ("CONPERM", "CONPERM"),
            ("X-A=b;c", "X-A=b;c"),
        ] {
            assert_eq!(mail_parameter(text).unwrap().to_string(), sent);
        }
        for (text, sent) in [
            ("NOTIFY=delay,SUCCESS", "NOTIFY=SUCCESS,DELAY"),
            ("NOTIFY=never", "NOTIFY=NEVER"),
            ("ORCPT=rfc822;a+b@c", "ORCPT=rfc822;a+2Bb@c"),
            ("RRVS=2027-01-02T03:04:05Z;C", "RRVS=2027-01-02T03:04:05Z;C"),
            ("X-TAG", "X-TAG"),
        ] {
            assert_eq!(rcpt_parameter(text).unwrap().to_string(), sent);
        }
        for text in [
            "",
            "=x",
            "-a",
            "a b",
            "a=",
            "a=b=c",
            "a=b c",
            "a=\n",
            "SIZE=1",
            "BODY=7BIT",
            "SMTPUTF8",
            "RET",
            "RET=x",
            "BY=1",
            "BY=x;R",
            "BY=0;R",
            "BY=1;RR",
            "MT-PRIORITY=10",
            "MT-PRIORITY",
            "HOLDFOR=-1",
            "HOLDUNTIL=x",
            "AUTH=a b",
            "AUTH",
            "PRDR=1",
            "REQUIRETLS=1",
            "ENVID",
            "NOTIFY=NEVER",
        ] {
            assert!(mail_parameter(text).is_err(), "{text}");
        }
        for text in [
            "",
            "NOTIFY",
            "NOTIFY=never,delay",
            "NOTIFY=delay,",
            "ORCPT=a@b",
            "RRVS=x",
            "RRVS=x;y",
            "RET=FULL",
        ] {
            assert!(rcpt_parameter(text).is_err(), "{text}");
        }
    }
}
