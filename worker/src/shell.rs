//! What a shell and `man` know of the program, made of its own arguments.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::settings::{Cli, Command};

/// The program's name, which is also that of its page.
const NAME: &str = "mtinet-worker";

/// Does what only concerns shells and `man`.
///
/// # Errors
/// A directory that cannot be written, or nobody who reads the answer.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Completions { shell } => {
            std::io::stdout().write_all(&completions(*shell)).context("could not print the completions")
        }
        Command::Man { dir } => man(dir).with_context(|| format!("could not write to {}", dir.display())),
    }
}

fn completions(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), NAME, &mut script);
    script
}

/// Its subcommands are described on the one page.
fn man(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let mut page = Vec::new();
    clap_mangen::Man::new(Cli::command()).render(&mut page)?;
    std::fs::write(dir.join(format!("{NAME}.1")), page)?;
    writeln!(std::io::stdout(), "{}", dir.display())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_argument_is_completed_and_on_the_page() {
        let dir = tempfile::tempdir().unwrap();
        man(&dir.path().join("man1")).unwrap();
        let page = std::fs::read_to_string(dir.path().join("man1/mtinet-worker.1")).unwrap();
        // Hyphens are escaped there.
        let page = page.replace('\\', "");
        assert!(page.contains(".SH SYNOPSIS") && page.contains("Exit codes"), "{page}");
        let scripts = [Shell::Bash, Shell::Zsh, Shell::Fish]
            .map(|shell| String::from_utf8(completions(shell)).unwrap());
        for argument in Cli::command().get_arguments().filter_map(|argument| argument.get_long()) {
            assert!(page.contains(&format!("--{argument}")), "{argument} is not on the page");
            assert!(scripts.iter().all(|script| script.contains(argument)), "{argument} is not completed");
        }
        assert!(Shell::value_variants().iter().all(|shell| !completions(*shell).is_empty()));
    }
}
