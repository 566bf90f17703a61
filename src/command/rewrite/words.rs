//! The same in other words: for servers that do not know a command yet, and for a proxy that does not forward it.

use super::{
    Arg, Decision, Feature, Limit, Line, MOST_ARGS, RUN_KEY_FIRST, Rewriter, Spec, TOO_MANY, What,
    lookup, reject,
};
use crate::resp::parse::Command;

/// Lua's `unpack` takes no more than about 8,000.
const MOST_EVAL_ARGS: usize = 5000;
/// Runs a command whose key comes behind a subcommand.
const RUN_KEY_SECOND: &str = "return redis.call(ARGV[1],ARGV[2],KEYS[1],unpack(ARGV,3))";

impl Rewriter<'_> {
    /// A command without an expiry, in the words of the target's version.
    pub(super) fn untimed<'a>(&self, spec: &Spec, command: &Command<'a>) -> Decision<'a> {
        let target = &self.settings.target;
        let args = || command.args();
        let dropped = |words: &[(&[u8], usize)]| self.without_options(spec, command, words);
        match spec.name {
            "UNLINK" if !self.knows(spec) => self.renamed_to("DEL", spec, command),
            "GETDEL" if !self.knows(spec) => self.renamed_to("DEL", spec, command),
            "HSET" if command.argc() > 4 && !target.has(Feature::HsetMany) => {
                self.renamed_to("HMSET", spec, command)
            }
            "LMOVE" if !self.knows(spec) => match args().skip(3).collect::<Vec<_>>()[..] {
                [from, to]
                    if from.eq_ignore_ascii_case(b"RIGHT") && to.eq_ignore_ascii_case(b"LEFT") =>
                {
                    let mut keys = args().skip(1).take(2);
                    let mut line = Line::new("RPOPLPUSH");
                    for key in keys.by_ref() {
                        line = line.key(key);
                    }
                    Decision::lines(vec![line])
                }
                _ => self.unknown_there(spec),
            },
            _ if !self.knows(spec) => self.unknown_there(spec),
            "XGROUP|CREATE" | "XGROUP|SETID" if !target.has(Feature::StreamCounters) => {
                dropped(&[(b"ENTRIESREAD", 1)])
            }
            "XSETID" if !target.has(Feature::StreamCounters) => {
                dropped(&[(b"ENTRIESADDED", 1), (b"MAXDELETEDID", 1)])
            }
            "XADD" => self.xadd(spec, command),
            _ => What::AsIs.into(),
        }
    }

    /// The same command without options that the target does not know: each with so many arguments behind it.
    pub(super) fn without_options<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        words: &[(&[u8], usize)],
    ) -> Decision<'a> {
        let find = |bytes: &[u8]| {
            words
                .iter()
                .find(|(word, _)| bytes.eq_ignore_ascii_case(word))
        };
        if !command
            .args()
            .skip(2)
            .take(16)
            .any(|arg| find(arg).is_some())
        {
            return What::AsIs.into();
        }
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut line = Line::default();
        let mut args = self.args(spec, command).into_iter();
        while let Some(arg) = args.next() {
            if let (Arg::Bytes(bytes), true) = (arg, line.args.len() >= 2)
                && let Some((_, n)) = find(bytes)
            {
                args.by_ref().take(*n).for_each(drop);
                continue;
            }
            line.args.push(arg);
        }
        Decision {
            limit: Some(Limit::StreamCounters),
            ..Decision::lines(vec![line])
        }
    }

    /// XADD. A log has IDMP together with the id that the server chose, which only loaders take: clients say one after
    /// the other. What IDMPAUTO made of the entry is not in the log.
    pub(super) fn xadd<'a>(&self, spec: &Spec, command: &Command<'a>) -> Decision<'a> {
        let words = XaddWords::of(command);
        let Some((place, count)) = words.idmp else {
            return What::AsIs.into();
        };
        let id = command.arg(words.id).unwrap_or_default();
        let knows = self.settings.target.has(Feature::Idmp);
        if knows && id.ends_with(b"*") {
            return What::AsIs.into();
        }
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut args = self.args(spec, command);
        let idmp: Vec<Arg<'a>> = args.drain(place..place + count).collect();
        let line = Line { args, db: None };
        match idmp[..] {
            [_, producer, record] if knows => {
                let mut recorded = Line::new("XIDMPRECORD").key(command.arg(1).unwrap_or_default());
                recorded.args.extend([producer, record, Arg::Bytes(id)]);
                Decision::lines(vec![line, recorded])
            }
            _ => Decision {
                limit: Some(Limit::Idmp),
                ..Decision::lines(vec![line])
            },
        }
    }

    /// The same arguments under another name.
    pub(super) fn renamed_to<'a>(
        &self,
        name: &'static str,
        spec: &Spec,
        command: &Command<'a>,
    ) -> Decision<'a> {
        if command.argc() > MOST_ARGS {
            return reject(TOO_MANY);
        }
        let mut line = Line {
            args: self.args(spec, command),
            db: None,
        };
        line.args[0] = Arg::Bytes(name.as_bytes());
        Decision::lines(vec![line])
    }

    /// A decision for a twemproxy: what it does not forward goes through EVAL, where its key's place allows.
    pub(super) fn forwarded<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        mut decision: Decision<'a>,
    ) -> Decision<'a> {
        let forwards = |name: &[u8], argc: u64| {
            lookup(name)
                .and_then(|spec| spec.proxy)
                .is_some_and(|(least, most)| (u64::from(least)..=u64::from(most)).contains(&argc))
        };
        match &mut decision.what {
            What::AsIs if forwards(command.name(), command.argc()) => decision,
            What::AsIs => {
                if command.argc() > MOST_EVAL_ARGS as u64 {
                    return reject(format!(
                        "twemproxy forwards no {}, and it has too many arguments for a script",
                        spec.name.replace('|', " ")
                    ));
                }
                match wrapped(self.args(spec, command)) {
                    Some(line) => decision.what = What::Lines(vec![line]),
                    None => {
                        return reject(format!(
                            "twemproxy forwards no {}",
                            spec.name.replace('|', " ")
                        ));
                    }
                }
                decision
            }
            What::Lines(lines) => {
                for line in lines {
                    let name = match line.args.first() {
                        Some(Arg::Bytes(name)) => *name,
                        _ => b"",
                    };
                    if forwards(name, line.args.len() as u64) {
                        continue;
                    }
                    let shown = name.escape_ascii().to_string();
                    let args = std::mem::take(&mut line.args);
                    match (args.len() <= MOST_EVAL_ARGS)
                        .then(|| wrapped(args))
                        .flatten()
                    {
                        Some(wrapped) => *line = wrapped,
                        None => return reject(format!("twemproxy forwards no {shown}")),
                    }
                }
                decision
            }
            _ => decision,
        }
    }
}

/// The words of XADD between its key and its fields.
pub(super) struct XaddWords {
    /// Index of the entry's id.
    pub(super) id: usize,
    /// Index of IDMP or IDMPAUTO, and its words.
    idmp: Option<(usize, usize)>,
}

impl XaddWords {
    pub(super) fn of(command: &Command<'_>) -> XaddWords {
        let args: Vec<&[u8]> = command.args().take(20).collect();
        let mut words = XaddWords { id: 2, idmp: None };
        while let Some(word) = args.get(words.id) {
            let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
            let next = args.get(words.id + 1).copied().unwrap_or_default();
            let count = match () {
                () if is("MAXLEN") || is("MINID") => 2 + usize::from(next == b"=" || next == b"~"),
                () if is("LIMIT") => 2,
                () if is("NOMKSTREAM") || is("KEEPREF") || is("DELREF") || is("ACKED") => 1,
                () if is("IDMP") || is("IDMPAUTO") => {
                    let count = if is("IDMP") { 3 } else { 2 };
                    words.idmp = Some((words.id, count));
                    count
                }
                () => break,
            };
            words.id += count;
        }
        // Where words are missing nothing is known of them.
        if words.id >= args.len() {
            words.idmp = None;
        }
        words
    }
}

/// The same command by EVAL, where its key stands first or second and is the only one.
fn wrapped<'a>(args: Vec<Arg<'a>>) -> Option<Line<'a>> {
    let mut keys = args
        .iter()
        .enumerate()
        .filter(|(_, arg)| matches!(arg, Arg::Key(_)));
    let script = match (keys.next()?, keys.next()) {
        ((1, _), None) => RUN_KEY_FIRST,
        ((2, _), None) => RUN_KEY_SECOND,
        _ => return None,
    };
    let mut line = Line::new("EVAL").bytes(script.as_bytes()).int(1);
    line.args
        .extend(args.iter().filter(|arg| matches!(arg, Arg::Key(_))));
    line.args
        .extend(args.iter().filter(|arg| !matches!(arg, Arg::Key(_))));
    Some(line)
}
