//! `check`.

use clap::Args;

use crate::args::{InputArgs, MannersArgs};
use crate::outcome::Exit;

#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

pub fn run(_args: &CheckArgs) -> Exit {
    Exit::Usage
}
