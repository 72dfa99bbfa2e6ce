//! `mtinet drain`, `mtinet workers readmit` and `mtinet explain`.

use serde_json::json;

use super::args::{DrainArgs, ExplainArgs, ReadmitArgs};
use super::client::Coordinator;
use super::error::CliError;
use super::output::{print, print_json, say};

pub async fn drain(args: DrainArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let stopping = coordinator.drain(&args.worker, args.undo).await?;
    let worker = &args.worker;
    if args.undo {
        say(format_args!("worker {worker} gets trials again"));
    } else {
        say(format_args!(
            "worker {worker} gets no more trials; {stopping} attempts save and go on elsewhere (`mtinet workers` shows \
             when its slots are free, `mtinet drain --undo {worker}` takes it back)"
        ));
    }
    if args.json {
        print_json(&json!({ "worker": worker, "drained": !args.undo, "stopping": stopping }));
    }
    Ok(())
}

pub async fn readmit(args: ReadmitArgs) -> Result<(), CliError> {
    Coordinator::connect(&args.server.url).await?.readmit(&args.worker).await?;
    say(format_args!("worker {} gets trials again", args.worker));
    if args.json {
        print_json(&json!({ "worker": args.worker }));
    }
    Ok(())
}

pub async fn explain(args: ExplainArgs) -> Result<(), CliError> {
    let mut coordinator = Coordinator::connect(&args.server.url).await?;
    let study = match &args.study {
        Some(study) => Some(coordinator.study_id(study).await?),
        None => None,
    };
    let why = coordinator.explain(study, args.trial).await?;
    if args.json {
        print_json(&json!({
            "study": why.study,
            "trial": why.trial,
            "status": why.status,
            "reason": why.reason,
            "details": why.details,
        }));
        return Ok(());
    }
    let reason = if why.reason.is_empty() { String::new() } else { format!(": {}", why.reason) };
    print(format_args!("study {} {} is {}{reason}", why.study, why.trial, why.status));
    for detail in &why.details {
        print(format_args!("  {detail}"));
    }
    Ok(())
}
