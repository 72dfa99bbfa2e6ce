//! What a former agent on this directory left unsaid is said under its name, and its ranks are given back.
//!
//! An agent that was killed takes its trainers with it. Two things are still worth saying: facts that the coordinator
//! never acknowledged (a checkpoint is stored, a trial is evaluated, a rank ended), and that its ranks are gone, so that
//! their trials go on elsewhere at once, from the checkpoint just told, without counting a failure.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::access::Access;
use crate::link::Link;
use crate::session::Session;
use crate::spool::{Leftover, Told};
use crate::uplink::Uplink;

/// Settles one estate, for however long the coordinator is away.
pub async fn settle(url: String, access: Arc<Access>, leftover: Leftover) {
    let (name, worker) = (leftover.hello.name.clone(), leftover.hello.worker_id.clone());
    let bytes: usize = leftover.reports.iter().map(Told::bytes).sum();
    tracing::info!(worker, reports = leftover.reports.len(), bytes, "a former agent left something to say");
    let uplink = Uplink::new(Session::inherit(leftover));
    // Once to say everything, once more without ranks and slots, so that the coordinator waits for none of them.
    for _ in 0..2 {
        let (commands, _ignored) = mpsc::unbounded_channel();
        let link = Link::new(url.clone(), name.clone(), access.clone(), uplink.clone(), commands);
        tokio::select! {
            refusal = link.run() => {
                tracing::warn!(worker, refusal, "the coordinator does not want to hear of a former agent");
                break;
            }
            () = uplink.wait_for(|backlog| backlog.welcome && backlog.reports == 0) => {}
        }
        uplink.with(Session::on_disconnected);
    }
    let kept = uplink.with(|session| session.worker().map(|id| id.0.clone()) == Some(worker.clone()));
    if !kept {
        tracing::warn!(worker, "the coordinator does not know the former agent any more; its facts are void");
    }
    uplink.with(Session::close);
}
