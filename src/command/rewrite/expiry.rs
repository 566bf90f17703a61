//! Commands with an expiry: relative times become absolute, and all of them what the user wishes.

use super::{Arg, Decision, Effect, Expiry, Feature, Line, Rewriter, Spec, What, decimal, reject};
use crate::resp::parse::Command;

impl Rewriter<'_> {
    /// Finds the expiry of a command; `None` where it has none.
    pub(super) fn timed(
        &self,
        spec: &Spec,
        args: &[&[u8]],
    ) -> std::result::Result<Option<Timed>, String> {
        let number = |i: usize| {
            args.get(i)
                .copied()
                .and_then(decimal)
                .ok_or_else(|| format!("{}: its time is no number", spec.name))
        };
        let (at, unit_ms, relative) = match spec.expiry {
            Expiry::None => return Ok(None),
            Expiry::Secs(i) => (usize::from(i), 1000, true),
            Expiry::Millis(i) => (usize::from(i), 1, true),
            Expiry::UnixSecs(i) => (usize::from(i), 1000, false),
            Expiry::UnixMillis(i) => (usize::from(i), 1, false),
            Expiry::Restore => {
                if number(2)? == 0 {
                    return Ok(None);
                }
                let absolute = args
                    .iter()
                    .skip(4)
                    .any(|word| word.eq_ignore_ascii_case(b"ABSTTL"));
                (2, 1, !absolute)
            }
            Expiry::Options(first) => match option(args, usize::from(first), fields_step(spec)) {
                Some(found) => found,
                None => return Ok(None),
            },
            Expiry::OptionsAfterPairs(count) => {
                let pairs = number(usize::from(count))?.max(0) as usize;
                let first = pairs
                    .saturating_mul(2)
                    .saturating_add(usize::from(count) + 1);
                match option(args, first, 1) {
                    Some(found) => found,
                    None => return Ok(None),
                }
            }
        };
        let time = match spec.expiry {
            Expiry::Options(_) | Expiry::OptionsAfterPairs(_) => number(at + 1)?,
            _ => number(at)?,
        };
        let time = time.saturating_mul(unit_ms);
        let at_ms = if relative {
            let Some(from) = self.time_ms.or(self.clock_ms) else {
                return Err(format!(
                    "{} expires a while after a moment that the log does not tell (it has no #TS lines); \
                     --log-time TIME says when it was written",
                    spec.name
                ));
            };
            from.saturating_add(time)
        } else {
            time
        };
        Ok(Some(Timed {
            at,
            true_ms: self.settings.transform.true_expiry(Some(at_ms)),
            absolute_ms: !relative && unit_ms == 1,
        }))
    }

    /// A command that may have an expiry, with that expiry absolute and changed as is wished.
    pub(super) fn with_time<'a>(
        &self,
        spec: &Spec,
        command: &Command<'a>,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let effect = match &timed {
            Some(timed) => Effect::Expires(timed.true_ms),
            None if has_word(spec, &args, b"PERSIST") => Effect::Expires(None),
            None => Effect::None,
        };
        let written = timed
            .as_ref()
            .and_then(|timed| timed.true_ms)
            .map(|at| self.hold(at).unwrap_or(at));
        // What stands there in milliseconds and is not to be changed can stay, if all of it is known there.
        let same = match &timed {
            Some(timed) => {
                timed.absolute_ms
                    && self.settings.transform.ttl_shift_ms == 0
                    && written.is_some()
                    && written == timed.true_ms
            }
            None => true,
        };
        let key = args.get(1).copied().unwrap_or_default();
        match spec.name {
            "EXPIRE" | "PEXPIRE" | "EXPIREAT" | "PEXPIREAT" => {
                let Some(at) = written else {
                    return What::Drop.into();
                };
                let plain = args.len() == 3 || target.has(Feature::ExpireIf);
                if same && plain && self.settings.target.has(Feature::PExpireAt) {
                    return Decision::from(What::AsIs).with(effect);
                }
                // Its condition, if it has one, held when it was logged.
                Decision::lines(vec![self.expire(key, at)]).with(effect)
            }
            "SETEX" | "PSETEX" => {
                let line = Line::new("SET")
                    .key(key)
                    .bytes(args.get(3).copied().unwrap_or_default());
                let mut lines = Vec::new();
                match written {
                    Some(at) => self.set_until(line, key, at, &mut lines),
                    None => lines.push(line),
                }
                Decision::lines(lines).with(effect)
            }
            "SET" => {
                let effect = match effect {
                    Effect::None if !has_word(spec, &args, b"KEEPTTL") => Effect::Gone,
                    other => other,
                };
                self.set(args, timed, written, same).with(effect)
            }
            "GETEX" => match (timed, written) {
                (Some(_), Some(at)) => Decision::lines(vec![self.expire(key, at)]).with(effect),
                (None, _) if effect != Effect::None => {
                    Decision::lines(vec![Line::new("PERSIST").key(key)]).with(effect)
                }
                _ => What::Drop.into(),
            },
            "HEXPIRE" | "HPEXPIRE" | "HEXPIREAT" | "HPEXPIREAT" => {
                let Some(at) = written else {
                    return What::Drop.into();
                };
                if !target.has(Feature::FieldExpiry) {
                    return self.unknown_there(spec);
                }
                if same {
                    return Decision::from(What::AsIs).with(effect);
                }
                let Some(fields) = place_of_fields(&args, 3) else {
                    return reject(format!("{} without FIELDS", spec.name));
                };
                let line = Line::new("HPEXPIREAT").key(key).int(at);
                let line = line.all(fields_at(spec, &args, fields));
                Decision::lines(vec![line]).with(effect)
            }
            "HSETEX" => self.hsetex(spec, args, timed, written, same).with(effect),
            "HGETEX" => {
                let Some(fields) = place_of_fields(&args, 2) else {
                    return reject(format!("{} without FIELDS", spec.name));
                };
                let line = match (timed, written) {
                    (Some(_), Some(at)) => Line::new("HPEXPIREAT").key(key).int(at),
                    (None, _) if effect != Effect::None => Line::new("HPERSIST").key(key),
                    _ => return What::Drop.into(),
                };
                if !target.has(Feature::FieldExpiry) {
                    return self.unknown_there(spec);
                }
                Decision::lines(vec![line.all(fields_at(spec, &args, fields))]).with(effect)
            }
            "RESTORE" | "RESTORE-ASKING" => self.restore(args, timed, written).with(match effect {
                Effect::None => Effect::Gone,
                other => other,
            }),
            _ => {
                if !self.knows(spec) {
                    return self.unknown_there(spec);
                }
                if same {
                    return Decision::from(What::AsIs).with(effect);
                }
                let mut line = Line {
                    args: self.args(spec, command),
                    db: None,
                };
                let at = timed.map_or(0, |timed| timed.at);
                match written {
                    Some(ms) if at + 1 < line.args.len() => {
                        line.args[at] = Arg::Bytes(b"PXAT");
                        line.args[at + 1] = Arg::Int(ms);
                    }
                    _ => drop(line.args.drain(at..(at + 2).min(line.args.len()))),
                }
                Decision::lines(vec![line]).with(effect)
            }
        }
    }

    /// The expiry of a key that is there.
    pub(super) fn expire<'a>(&self, key: &'a [u8], at_ms: i64) -> Line<'a> {
        if self.settings.target.has(Feature::PExpireAt) {
            Line::new("PEXPIREAT").key(key).int(at_ms)
        } else {
            let secs = at_ms.div_euclid(1000) + i64::from(at_ms.rem_euclid(1000) > 0);
            Line::new("EXPIREAT").key(key).int(secs)
        }
    }

    /// A SET with its expiry, as one command or two.
    pub(super) fn set_until<'a>(
        &self,
        set: Line<'a>,
        key: &'a [u8],
        true_ms: i64,
        lines: &mut Vec<Line<'a>>,
    ) {
        let at = self.hold(true_ms).unwrap_or(true_ms);
        if self.settings.target.has(Feature::SetPxat) {
            // SET takes no time before 1970; both are past.
            lines.push(set.bytes(b"PXAT").int(at.max(1)));
        } else {
            lines.push(set);
            lines.push(self.expire(key, at));
        }
    }

    pub(super) fn set<'a>(
        &self,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
        same: bool,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let [_, key, value, options @ ..] = &args[..] else {
            return reject("SET without a value");
        };
        let is = |word: &[u8], name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        let unusual = options.iter().any(|word| {
            ["GET", "IFEQ", "IFNE", "IFDEQ", "IFDNE"]
                .iter()
                .any(|name| is(word, name))
        });
        let has_time = timed.is_some();
        if same && !unusual && (!has_time || target.has(Feature::SetPxat)) {
            let keeps = options.iter().any(|word| is(word, "KEEPTTL"));
            return if keeps && !target.has(Feature::KeepTtl) {
                reject("SET … KEEPTTL needs Redis 6.0")
            } else {
                What::AsIs.into()
            };
        }
        // A condition that the log has was met, so that only NX and XX, which every server knows, need be kept.
        let mut line = Line::new("SET").key(key).bytes(value);
        let mut options = options.iter().copied().enumerate();
        while let Some((i, word)) = options.next() {
            match timed.as_ref() {
                Some(timed) if timed.at == i + 3 => {
                    let _ = options.next();
                }
                _ if is(word, "GET") => {}
                _ if ["IFEQ", "IFNE", "IFDEQ", "IFDNE"]
                    .iter()
                    .any(|name| is(word, name)) =>
                {
                    let _ = options.next();
                }
                _ => line = line.bytes(word),
            }
        }
        let mut lines = Vec::new();
        match (written, timed.and_then(|timed| timed.true_ms)) {
            (Some(_), Some(at)) => self.set_until(line, key, at, &mut lines),
            _ => lines.push(line),
        }
        Decision::lines(lines)
    }

    pub(super) fn hsetex<'a>(
        &self,
        spec: &Spec,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
        same: bool,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let Some(fields) = place_of_fields(&args, 2) else {
            return reject(format!("{} without FIELDS", spec.name));
        };
        let conditional = args[2..fields]
            .iter()
            .any(|w| w.eq_ignore_ascii_case(b"FNX") || w.eq_ignore_ascii_case(b"FXX"));
        let keeps = args[2..fields]
            .iter()
            .any(|w| w.eq_ignore_ascii_case(b"KEEPTTL"));
        if target.has(Feature::HashSetEx) && same && !conditional {
            return What::AsIs.into();
        }
        let key = args[1];
        if target.has(Feature::HashSetEx) {
            let mut line = Line::new("HSETEX").key(key);
            line = match written {
                Some(at) => line.bytes(b"PXAT").int(at),
                None if keeps => line.bytes(b"KEEPTTL"),
                None => line,
            };
            return Decision::lines(vec![line.all(fields_at(spec, &args, fields))]);
        }
        // Sources from 8.0 on write HINCRBYFLOAT so. Where fields have no lives, there is none that HSET would end.
        if keeps && target.has(Feature::FieldExpiry) {
            return reject("HSETEX … KEEPTTL needs Redis 8.0 or Valkey 9.0");
        }
        let pairs: Vec<&'a [u8]> = fields_at(spec, &args, fields).skip(2).collect();
        let mut lines = Vec::new();
        if target.has(Feature::HsetMany) || pairs.len() == 2 {
            lines.push(Line::new("HSET").key(key).all(pairs.iter().copied()));
        } else {
            lines.push(Line::new("HMSET").key(key).all(pairs.iter().copied()));
        }
        if let (Some(_), Some(at)) = (timed, written) {
            if !target.has(Feature::FieldExpiry) {
                return reject(format!(
                    "HPEXPIREAT needs {}; the target is {}",
                    Feature::FieldExpiry.needs(),
                    target.shown()
                ));
            }
            let line = Line::new("HPEXPIREAT").key(key).int(at).bytes(b"FIELDS");
            let line = line.int(pairs.len() as i64 / 2);
            lines.push(line.all(pairs.iter().copied().step_by(2)));
        }
        Decision::lines(lines)
    }

    pub(super) fn restore<'a>(
        &self,
        args: Vec<&'a [u8]>,
        timed: Option<Timed>,
        written: Option<i64>,
    ) -> Decision<'a> {
        let target = &self.settings.target;
        let [_, key, _, payload, options @ ..] = &args[..] else {
            return reject("RESTORE without a payload");
        };
        let has = |name: &[u8]| options.iter().any(|word| word.eq_ignore_ascii_case(name));
        if let Some(version) = payload
            .len()
            .checked_sub(10)
            .and_then(|at| payload.get(at..at + 2))
            .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
            && !target.takes_payload(version)
        {
            return reject(format!(
                "its payload is of RDB version {version}, which {} does not take",
                target.shown()
            ));
        }
        let absolute = target.has(Feature::RestoreAbsTtl);
        let mut line = Line::new("RESTORE").key(key);
        line = line
            .int(written.filter(|_| absolute).unwrap_or(0))
            .bytes(payload);
        if has(b"REPLACE") {
            if !target.has(Feature::RestoreReplace) {
                return reject("RESTORE … REPLACE needs Redis 3.0");
            }
            line = line.bytes(b"REPLACE");
        }
        if timed.is_some() && written.is_some() && absolute {
            line = line.bytes(b"ABSTTL");
        }
        for name in [&b"IDLETIME"[..], b"FREQ"] {
            let place = options
                .iter()
                .position(|word| word.eq_ignore_ascii_case(name));
            if let (Some(value), true) = (place.and_then(|i| options.get(i + 1)), absolute) {
                line = line.bytes(name).bytes(value);
            }
        }
        let mut lines = vec![line];
        if let (Some(at), false) = (written, absolute) {
            lines.push(self.expire(key, at));
        }
        Decision::lines(lines)
    }
}

/// An expiry in a command.
pub(super) struct Timed {
    /// Index of the time; of the option word before it for options.
    at: usize,
    /// The true time at the destination; `None` where expiries are left out.
    pub(super) true_ms: Option<i64>,
    /// Whether the time stands there in Unix milliseconds already.
    absolute_ms: bool,
}

/// The option word EX, PX, EXAT or PXAT from `first` on: its index, its unit in milliseconds, whether it is relative.
fn option(args: &[&[u8]], first: usize, fields_step: usize) -> Option<(usize, i64, bool)> {
    let mut i = first;
    while let Some(word) = args.get(i) {
        let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
        if is("FIELDS") {
            // Redis takes options behind the fields too.
            let fields = args.get(i + 1).copied().and_then(decimal)?.max(0) as usize;
            i = fields.saturating_mul(fields_step).saturating_add(i + 2);
            continue;
        }
        for (name, unit, relative) in [
            ("EX", 1000, true),
            ("PX", 1, true),
            ("EXAT", 1000, false),
            ("PXAT", 1, false),
        ] {
            if is(name) {
                return Some((i, unit, relative));
            }
        }
        let with_value = [
            "IFEQ", "IFNE", "IFDEQ", "IFDNE", "BYFLOAT", "BYINT", "LBOUND", "UBOUND",
        ];
        i += 1 + usize::from(with_value.iter().any(|name| is(name)));
    }
    None
}

/// Index of the word FIELDS, from `first` on.
fn place_of_fields(args: &[&[u8]], first: usize) -> Option<usize> {
    let is_it = |word: &&[u8]| word.eq_ignore_ascii_case(b"FIELDS");
    Some(first + args.get(first..)?.iter().position(is_it)?)
}

/// FIELDS at index `at`, the number of fields, and the fields themselves; options behind them are left out.
fn fields_at<'a>(
    spec: &Spec,
    args: &[&'a [u8]],
    at: usize,
) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let count = args
        .get(at + 1)
        .copied()
        .and_then(decimal)
        .unwrap_or(0)
        .max(0) as usize;
    let end = count
        .saturating_mul(fields_step(spec))
        .saturating_add(at + 2);
    let fields = args[at..end.min(args.len())].to_vec();
    fields.into_iter()
}

/// Arguments that make up a field behind FIELDS.
pub(super) fn fields_step(spec: &Spec) -> usize {
    if spec.name == "HSETEX" { 2 } else { 1 }
}

fn has_word(spec: &Spec, args: &[&[u8]], word: &[u8]) -> bool {
    let first = match spec.expiry {
        Expiry::Options(first) => usize::from(first),
        _ => return false,
    };
    args.iter()
        .skip(first)
        .take_while(|arg| !arg.eq_ignore_ascii_case(b"FIELDS"))
        .any(|arg| arg.eq_ignore_ascii_case(word))
}
