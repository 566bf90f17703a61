//! `report`.

use clap::Args;

use crate::args::{InputArgs, MannersArgs};
use crate::outcome::Exit;

#[derive(Debug, Clone, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub input: InputArgs,
    #[command(flatten)]
    pub manners: MannersArgs,
}

pub fn run(_args: &ReportArgs) -> Exit {
    Exit::Usage
}
