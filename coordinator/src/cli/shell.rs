//! `mtinet completions` and `mtinet man`: what a shell and `man` know of the commands, made of the same arguments.

use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use super::args::Cli;
use super::error::CliError;
use super::output::{print, print_raw};

#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Debug, Args)]
pub struct ManArgs {
    /// Directory to write to, for example ~/.local/share/man/man1; made where it is missing.
    pub dir: PathBuf,
}

/// Prints the completions of a shell.
pub fn completions(args: &CompletionsArgs) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "mtinet", &mut script);
    print_raw(String::from_utf8_lossy(&script));
    Ok(())
}

/// Writes a page for each command.
///
/// # Errors
/// Exit code 1 for a directory that cannot be written.
pub fn man(args: &ManArgs) -> Result<(), CliError> {
    let write = || -> io::Result<()> {
        std::fs::create_dir_all(&args.dir)?;
        clap_mangen::generate_to(Cli::command(), &args.dir)
    };
    write()
        .map_err(|error| CliError::failed(format_args!("cannot write to {}", args.dir.display()), &error))?;
    print(args.dir.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_command_is_completed_and_has_a_page() {
        let dir = tempfile::tempdir().unwrap();
        man(&ManArgs { dir: dir.path().join("man1") }).unwrap();
        let mut cli = Cli::command();
        cli.build();
        let scripts: Vec<String> = Shell::value_variants()
            .iter()
            .map(|shell| {
                let mut script = Vec::new();
                clap_complete::generate(*shell, &mut Cli::command(), "mtinet", &mut script);
                String::from_utf8(script).unwrap()
            })
            .collect();
        for command in cli.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = command.get_name();
            let page = std::fs::read_to_string(dir.path().join(format!("man1/mtinet-{name}.1"))).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{name}");
            assert!(scripts.iter().all(|script| script.contains(name)), "{name}");
        }
    }

    #[test]
    fn the_arguments_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_shows_something_shows_it_to_programs_too() {
        let mut cli = Cli::command();
        cli.build();
        for path in [
            "status",
            "workers",
            "logs",
            "explain",
            "study list",
            "study show",
            "token list",
            "data check",
            "coordinator backup",
        ] {
            let command =
                path.split(' ').try_fold(&cli, |command, name| command.find_subcommand(name)).unwrap();
            assert!(
                command.get_arguments().any(|argument| argument.get_id() == "json"),
                "{path} has no --json"
            );
        }
    }
}
