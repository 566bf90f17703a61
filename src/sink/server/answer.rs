//! What an error reply means for the command that got it: whether it was applied, and what to do.

use crate::command::target::Dialect;

/// What to do about an error reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Certainly not applied; the server will take it later. The wait is bounded.
    Later,
    /// Whether it was applied is not known: a proxy gave up waiting for its server, or lost it.
    Unknown,
    /// It belongs to another node of the cluster.
    Elsewhere,
    /// The key is there already.
    Exists,
    /// The script is not known there: it has to be sent with its text.
    NoScript,
    /// The server reads no payload of this version.
    Payload,
    /// The transaction was given up: an error inside says why.
    Aborted,
    /// This command will never be taken.
    Refused,
    /// Nothing will be taken: the login, or its rights, are not enough.
    Login,
}

/// Errors of a Redis that say "not now".
const LATER: &[&str] = &[
    "OOM ",
    "LOADING ",
    "BUSY ",
    "TRYAGAIN ",
    "CLUSTERDOWN ",
    "MASTERDOWN ",
    "NOREPLICAS ",
    "MISCONF ",
    "READONLY ",
];

const LOGIN: &[&str] = &[
    "NOAUTH ",
    "WRONGPASS ",
    "NOPERM ",
    "DENIED ",
    "ERR invalid password",
    "ERR operation not permitted",
    "ERR max number of clients reached",
    "ERR DB index is out of range",
    "ERR SELECT is not allowed in cluster mode",
];

/// Errors of a Redis that begin with ERR and say for certain that a command was not applied. Whatever else begins so and
/// comes through a proxy may be the proxy's own.
const REFUSED: &[&str] = &[
    "ERR Bad data format",
    "ERR wrong number of arguments",
    "ERR syntax error",
    "ERR unknown command",
    "ERR unknown subcommand",
    "ERR Unknown subcommand",
    "ERR value is not",
    "ERR hash value is not",
    "ERR increment ",
    "ERR invalid",
    "ERR Invalid ", // not "Invalid argument": that is the proxy's, and is looked for first
    "ERR string exceeds",
    "ERR no such key",
    "ERR The ID specified in XADD",
    "ERR Error running script",
    "ERR Error compiling script",
    "ERR user_script",
    "ERR This instance has",
    "ERR index out of range",
    "ERR min or max",
    "ERR resulting score",
];

/// What `error`, without its `-`, means at a destination of this kind.
pub(crate) fn verdict(error: &[u8], dialect: Dialect) -> Verdict {
    let starts = |word: &str| error.starts_with(word.as_bytes());
    let any = |words: &[&str]| words.iter().copied().any(starts);
    let contains = |word: &str| error.windows(word.len()).any(|w| w == word.as_bytes());
    if any(LATER)
        || contains("-OOM ")
        || contains("OOM command not allowed")
        || contains("-MISCONF ")
        || contains("-READONLY ")
    {
        // Scripts put the words of the command that failed in theirs.
        Verdict::Later
    } else if starts("MOVED ") || starts("ASK ") {
        Verdict::Elsewhere
    } else if starts("BUSYKEY") {
        Verdict::Exists
    } else if starts("NOSCRIPT") {
        Verdict::NoScript
    } else if starts("EXECABORT") {
        Verdict::Aborted
    } else if starts("ERR DUMP payload version or checksum are wrong") {
        Verdict::Payload
    } else if any(LOGIN) {
        Verdict::Login
    } else if dialect == Dialect::Twemproxy
        && starts("ERR")
        && (starts("ERR Invalid argument") || !any(REFUSED))
    {
        Verdict::Unknown
    } else {
        Verdict::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_errors_mean() {
        for (text, direct, proxy) in [
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Verdict::Later,
                Verdict::Later,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Verdict::Later,
                Verdict::Later,
            ),
            (
                "MOVED 3999 127.0.0.1:6381",
                Verdict::Elsewhere,
                Verdict::Elsewhere,
            ),
            (
                "BUSYKEY Target key name already exists.",
                Verdict::Exists,
                Verdict::Exists,
            ),
            (
                "BUSY Redis is busy running a script.",
                Verdict::Later,
                Verdict::Later,
            ),
            (
                "WRONGTYPE Operation against a key holding the wrong kind of value",
                Verdict::Refused,
                Verdict::Refused,
            ),
            (
                "ERR Connection timed out",
                Verdict::Refused,
                Verdict::Unknown,
            ),
            ("ERR Invalid argument", Verdict::Refused, Verdict::Unknown),
            ("ERR unknown", Verdict::Refused, Verdict::Unknown),
            (
                "ERR unknown command 'FOO'",
                Verdict::Refused,
                Verdict::Refused,
            ),
            ("ERR Bad data format", Verdict::Refused, Verdict::Refused),
            (
                "ERR DUMP payload version or checksum are wrong",
                Verdict::Payload,
                Verdict::Payload,
            ),
            (
                "EXECABORT Transaction discarded because of previous errors.",
                Verdict::Aborted,
                Verdict::Aborted,
            ),
            (
                "NOSCRIPT No matching script.",
                Verdict::NoScript,
                Verdict::NoScript,
            ),
            (
                "NOPERM this user has no permissions",
                Verdict::Login,
                Verdict::Login,
            ),
        ] {
            assert_eq!(verdict(text.as_bytes(), Dialect::Redis), direct, "{text}");
            assert_eq!(
                verdict(text.as_bytes(), Dialect::Twemproxy),
                proxy,
                "{text}"
            );
        }
    }
}
