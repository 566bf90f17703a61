//! `replay`: snapshots and logs → a destination.

use jiff::Timestamp;
use redis_migration::command::target::Dialect;

use crate::args::{DialectArg, PresentArg, ReplayArgs};
use crate::outcome::Exit;
use crate::report::Log;
use crate::target;

/// Checks what was asked for; sending is not there yet.
pub fn run(args: &ReplayArgs) -> Exit {
    let log = Log::new(&args.manners);
    let dialect: Dialect = match args.target.dialect {
        Some(dialect) => dialect.into(),
        None if args.classic => DialectArg::Twemproxy.into(),
        None => DialectArg::Redis.into(),
    };
    let now_ms = Timestamp::now().as_millisecond();
    if let Err(text) = args.settings(now_ms, dialect, args.target.target_version) {
        log.failure(&text);
        return Exit::Usage;
    }
    if let Err((text, exit)) = target::endpoint(&args.target) {
        log.failure(&text);
        return exit;
    }
    if args.on_exist() == PresentArg::Merge && args.connections().is_none() {
        log.info("keys that are there already are added to");
    }
    log.failure("replay: not yet");
    Exit::Policy
}
