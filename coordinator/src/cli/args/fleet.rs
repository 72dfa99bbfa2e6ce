//! Arguments about workers and about who may talk to the coordinator.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::Server;

#[derive(Debug, Args)]
pub struct DrainArgs {
    /// Number or name of the worker.
    pub worker: String,
    /// Take a former drain back: give the worker trials again.
    #[arg(long)]
    pub undo: bool,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Subcommand)]
pub enum WorkersCommand {
    /// Give trials again to a worker that was set aside because attempts kept failing on it.
    Readmit(ReadmitArgs),
}

#[derive(Debug, Args)]
pub struct ReadmitArgs {
    /// Number or name of the worker.
    pub worker: String,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Address of the coordinator, as https://HOST:PORT.
    pub url: String,
    /// File with the token; else MTINET_TOKEN holds it.
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// The name that others see [default: USER@HOST].
    #[arg(long)]
    pub name: Option<String>,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Print a new token, which is told only once.
    Create(CreateTokenArgs),
    /// List the tokens, who made them and who joined with them.
    List(ListTokensArgs),
    /// Make a token useless and refuse those who joined with it from now on.
    Revoke(RevokeTokenArgs),
}

/// The coordinator whose tokens are meant.
#[derive(Debug, Args)]
pub struct TokenServer {
    /// The coordinator's data directory (or run directory), on its machine; it need not serve.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    #[command(flatten)]
    pub server: Server,
}

#[derive(Debug, Args)]
pub struct CreateTokenArgs {
    /// What those who join with it may do: worker runs trainers, operator does everything, viewer looks.
    #[arg(long, value_parser = ["worker", "operator", "viewer"])]
    pub role: String,
    /// How long it can be used, e.g. 30m, 24h, 7d.
    #[arg(long, default_value = "24h")]
    pub ttl: String,
    /// How many may join with it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub uses: u32,
    /// Write it to a new file that only you read, instead of printing it.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Print one JSON document; the token itself is never in it, so it needs --out.
    #[arg(long, requires = "out")]
    pub json: bool,
    #[command(flatten)]
    pub at: TokenServer,
}

#[derive(Debug, Args)]
pub struct ListTokensArgs {
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub at: TokenServer,
}

#[derive(Debug, Args)]
pub struct RevokeTokenArgs {
    /// The token's id, as `mtinet token list` shows it.
    pub id: String,
    /// Print one JSON document.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub at: TokenServer,
}
