//! `mtinet token ...`: what workers and people join with.

use std::path::Path;
use std::time::Duration;

use mtinet_proto::v1::TokenState;
use mtinet_runtime::tls::{Role, write_private};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use super::args::{CreateTokenArgs, ListTokensArgs, RevokeTokenArgs, TokenCommand, TokenServer};
use super::client::Coordinator;
use super::error::CliError;
use super::output::{print, print_json, say, table, utc};
use super::target::data_directory;
use crate::server::{self, ServerError};

pub async fn run(command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => create(args).await,
        TokenCommand::List(args) => list(args).await,
        TokenCommand::Revoke(args) => revoke(args).await,
    }
}

impl TokenServer {
    async fn connect(&self) -> Result<Coordinator, CliError> {
        match &self.data_dir {
            Some(dir) => Coordinator::connect(&as_path(dir)).await,
            None => Coordinator::connect(&self.server.url).await,
        }
    }
}

/// A directory's name is never taken for an address.
fn as_path(dir: &Path) -> String {
    let text = dir.display().to_string();
    if text.contains('/') { text } else { format!("./{text}") }
}

async fn create(args: CreateTokenArgs) -> Result<(), CliError> {
    let ttl = duration(&args.ttl)?;
    let (token, expires_ms) = match &args.at.data_dir {
        // Before the coordinator's first start as well: a fleet may be set up ahead of it.
        Some(dir) => match server::offline_token(&data_directory(dir), role(&args.role)?, ttl, args.uses) {
            Err(ServerError::InUse { .. }) => {
                args.at.connect().await?.create_token(&args.role, ttl, args.uses).await?
            }
            made => made.map(|made| (made.token.expose(), made.expires_ms))?,
        },
        None => args.at.connect().await?.create_token(&args.role, ttl, args.uses).await?,
    };
    hand_over(&args, &token)?;
    if args.json {
        print_json(
            &json!({ "role": args.role, "uses": args.uses, "expires_ms": expires_ms, "file": args.out }),
        );
        return Ok(());
    }
    let uses = if args.uses == 1 { "one use".to_owned() } else { format!("{} uses", args.uses) };
    say(format_args!("role {}, {uses}, until {}; it is not told again", args.role, utc(expires_ms)));
    Ok(())
}

fn hand_over(args: &CreateTokenArgs, token: &SecretString) -> Result<(), CliError> {
    let token = token.expose_secret();
    match &args.out {
        Some(path) => Ok(write_private(path, format!("{token}\n").as_bytes())?),
        None => {
            print(token);
            Ok(())
        }
    }
}

async fn list(args: ListTokensArgs) -> Result<(), CliError> {
    let tokens = args.at.connect().await?.tokens().await?;
    if args.json {
        print_json(&json!({ "tokens": tokens.iter().map(token_json).collect::<Vec<_>>() }));
    } else if tokens.is_empty() {
        say("no tokens; `mtinet token create --role worker` makes one");
    } else {
        let now_ms = mtinet_runtime::tls::unix_now() * 1000;
        let rows = tokens.iter().map(|token| {
            vec![
                token.id.clone(),
                token.role.clone(),
                state(token, now_ms).to_owned(),
                format!("{} of {}", token.used, token.uses),
                utc(token.expires_ms),
                token.by.clone(),
                token.joined.join(", "),
            ]
        });
        print(table(&["Token", "Role", "State", "Used", "Until", "Made by", "Joined"], rows));
    }
    Ok(())
}

fn state(token: &TokenState, now_ms: u64) -> &'static str {
    if token.revoked_ms > 0 {
        "revoked"
    } else if token.used >= token.uses {
        "used"
    } else if token.expires_ms <= now_ms {
        "expired"
    } else {
        "open"
    }
}

fn token_json(token: &TokenState) -> serde_json::Value {
    json!({
        "id": token.id,
        "role": token.role,
        "state": state(token, mtinet_runtime::tls::unix_now() * 1000),
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
        "by": token.by,
        "uses": token.uses,
        "used": token.used,
        "last_used_ms": (token.last_used_ms > 0).then_some(token.last_used_ms),
        "revoked_ms": (token.revoked_ms > 0).then_some(token.revoked_ms),
        "joined": token.joined,
    })
}

async fn revoke(args: RevokeTokenArgs) -> Result<(), CliError> {
    let identities = args.at.connect().await?.revoke_token(&args.id).await?;
    if args.json {
        print_json(&json!({ "id": args.id, "identities_refused": identities }));
        return Ok(());
    }
    say(format_args!(
        "token {} buys nothing any more; {identities} that joined with it are refused from now on",
        args.id
    ));
    Ok(())
}

fn role(word: &str) -> Result<Role, CliError> {
    word.parse().map_err(|error: mtinet_runtime::tls::RoleError| CliError::Usage(error.to_string()))
}

fn duration(text: &str) -> Result<Duration, CliError> {
    let wrong = || CliError::Usage(format!("--ttl {text}: write a number and a unit: 45s, 30m, 24h, 7d"));
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().ok().filter(|number| *number > 0).ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_have_units() {
        assert_eq!(duration("24h").unwrap(), Duration::from_secs(86_400));
        assert_eq!(duration("7d").unwrap(), Duration::from_secs(604_800));
        for wrong in ["", "24", "h", "-1h", "1.5h", "0m", "ä", "99999999999999999999d"] {
            assert_eq!(duration(wrong).unwrap_err().exit_code(), 2, "{wrong}");
        }
    }
}
