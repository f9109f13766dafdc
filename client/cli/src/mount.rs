//! `brick mount`: becomes mount.brick.

use std::os::unix::process::CommandExt;

use crate::output::Failure;

const PROGRAM: &str = "mount.brick";

/// Replaces this process; returns only when that failed. A mount.brick beside this program
/// wins over one on the PATH, so that an uninstalled build mounts with its own.
pub fn exec(words: &[String]) -> Failure {
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(PROGRAM));
    let program = beside.filter(|path| path.exists()).unwrap_or_else(|| PROGRAM.into());
    let error = std::process::Command::new(&program).args(words).exec();
    Failure::plain(format!("{}: {error}; is it installed?", program.display()))
}
