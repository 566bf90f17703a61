//! The program: parse, run, exit. What it says goes to stderr; stdout carries data only.

#![forbid(unsafe_code)]

mod args;
mod check;
mod classic;
mod convert;
mod job;
mod migrate;
mod outcome;
mod rejects;
mod replay;
mod report;
mod run;
mod snapshots;
mod summary;
mod target;
mod values;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use classic::Classic;
use outcome::Exit;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if classic::is_classic(&words) {
        words = match classic::rewrite(&words) {
            Classic::Today(words) => words,
            Classic::Help => return print(format!("{}\n", classic::USAGE).as_bytes()).into(),
            Classic::Version => return print(Cli::command().render_version().as_bytes()).into(),
            Classic::Wrong(text) => {
                eprintln!("redis-migration: {text}");
                return Exit::Usage.into();
            }
        };
    } else if let Some(name) = asked_for_help(&words) {
        let mut program = Cli::command();
        program.build();
        let subcommand = program.find_subcommand_mut(name).expect("a subcommand");
        let _ = subcommand.print_help();
        return Exit::Done.into();
    }
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, not mistakes.
            let exit = if error.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
            let _ = error.print();
            return exit.into();
        }
    };
    let exit = match cli.command {
        Command::Convert(args) => convert::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Migrate(args) => migrate::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "redis-migration", &mut script);
            print(&script)
        }
        Command::Man { subcommand } => man(subcommand.as_deref()),
    };
    exit.into()
}

/// As with redis-cli: -h is the host, but where no word follows it is a question.
fn asked_for_help(words: &[OsString]) -> Option<&'static str> {
    let [_, subcommand, rest @ ..] = words else {
        return None;
    };
    let asks =
        rest.last().is_some_and(|word| word == "-h") && !rest.iter().any(|word| word == "--");
    ["replay", "migrate", "verify"]
        .into_iter()
        .find(|name| asks && subcommand == name)
}

fn man(subcommand: Option<&str>) -> Exit {
    let mut program = Cli::command();
    program.build();
    let page = match subcommand {
        None => clap_mangen::Man::new(program),
        Some(name) => match program.find_subcommand(name) {
            Some(found) => {
                // As git does it: the page of `convert` is redis-migration-convert.
                let title = format!("redis-migration-{name}");
                clap_mangen::Man::new(found.clone().name(title.clone()).display_name(title))
            }
            None => {
                eprintln!("redis-migration: there is no subcommand {name}");
                return Exit::Usage;
            }
        },
    };
    let mut text = Vec::new();
    page.render(&mut text).expect("memory can be written");
    print(&text)
}

/// Writes a text to stdout; a reader that stops early ends the program as SIGPIPE does.
fn print(text: &[u8]) -> Exit {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text).and_then(|()| stdout.flush()) {
        Ok(()) => Exit::Done,
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => outcome::die_by_sigpipe(),
        Err(e) => {
            eprintln!("redis-migration: stdout cannot be written: {e}");
            Exit::LocalFile
        }
    }
}
