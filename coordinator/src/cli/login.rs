//! `mtinet login`: an identity for a coordinator on another machine.

use mtinet_runtime::net;
use mtinet_runtime::tls::{NewKey, TOKEN_VARIABLE, Token, enrol, utc};
use serde_json::json;

use super::args::LoginArgs;
use super::error::CliError;
use super::output::{print_json, say};
use super::target;

pub async fn run(args: LoginArgs) -> Result<(), CliError> {
    net::check_url(&args.url)?;
    let token = Token::from_file_or_environment(args.token_file.as_deref())?.ok_or_else(|| {
        CliError::Usage(format!(
            "no token: give --token-file FILE or set {TOKEN_VARIABLE}; `mtinet token create --role operator` on the \
             coordinator's machine prints one"
        ))
    })?;
    if token.role == mtinet_runtime::tls::Role::Worker {
        return Err(CliError::Usage(
            "this is a worker's token: give it to `mtinet-worker --token-file FILE`, or get one of role operator or \
             viewer"
                .to_owned(),
        ));
    }
    let identity = enrol(&args.url, &token, &NewKey::generate()?, &args.name.unwrap_or_else(user)).await?;
    let file = target::remember(&args.url, &identity)?;
    let certified = identity.certified();
    if args.json {
        print_json(&json!({
            "coordinator": args.url,
            "role": certified.subject.role.to_string(),
            "name": certified.subject.name,
            "expires_ms": certified.not_after * 1000,
            "identity": file,
        }));
        return Ok(());
    }
    say(format_args!(
        "logged in to {} as {} {}, until {} and renewed by use; the identity is in {}",
        args.url,
        certified.subject.role,
        certified.subject.name,
        utc(certified.not_after),
        file.display()
    ));
    Ok(())
}

fn user() -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "someone".to_owned());
    match nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()) {
        Some(host) => format!("{user}@{host}"),
        None => user,
    }
}
