//! `pool recover`: shows what it would do, asks, does it.

use proto_grpc::control::{PeerName, PoolRecoverReply, PoolRecoverRequest};

use crate::connection::Control;
use crate::output::{Failure, Output, print};

const COMMAND: &str = "pool recover";

pub async fn run(control: &mut Control, output: Output, accept_loss: bool) -> Result<(), Failure> {
    let ask = PoolRecoverRequest { accept_loss, lost: Vec::new() };
    let plan = control.pool_recover(ask).await;
    let plan = plan.map_err(|e| Failure::of(COMMAND, &e))?.into_inner();
    if !plan.older.is_empty() && !accept_loss {
        return Err(Failure::plain(format!(
            "{COMMAND}: nothing was changed: {}; start a peer that has a current copy, or go on \
             with the older one by --accept-loss: what it lacks is gone",
            plan.older.join("; ")
        )));
    }
    if !output.json {
        print(&told(&plan));
    }
    output.insists(COMMAND, "Are the lost peers gone for ever? Do you want to continue?")?;
    let lost = plan.lost.iter().map(|p| p.uuid.clone()).collect();
    let done = control.pool_recover(PoolRecoverRequest { accept_loss, lost }).await;
    let done = done.map_err(|e| Failure::of(COMMAND, &e))?.into_inner();
    output.reply(&done, |_| {
        format!(
            "{COMMAND}: success; check 'brick volume status', then bring peers in: new ones by \
             'brick peer probe HOST', reinstalled ones by 'brick peer probe HOST --reinstalled'"
        )
    });
    Ok(())
}

fn told(plan: &PoolRecoverReply) -> String {
    let names = |peers: &[PeerName]| {
        let hosts: Vec<&str> = peers.iter().map(|p| p.hostname.as_str()).collect();
        hosts.join(", ")
    };
    let mut text = format!(
        "The pool goes on with: {}\n\
         Dropped for ever, because they do not answer: {}\n\
         What was changed while this peer was cut off from them is lost. They must never come back \
         with their old state:\none that does is refused, and stops when it is told. Install it \
         anew, or empty its state folder, and probe it\nwith --reinstalled: its bricks then heal.",
        names(&plan.staying),
        names(&plan.lost)
    );
    for line in &plan.older {
        text += &format!("\nOLDER COPY: {line}");
    }
    for line in &plan.nothing {
        text +=
            &format!("\nNO COPY: {line}; it waits until one of them is probed with --reinstalled");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lost_and_what_goes_on_is_said() {
        let name = |host: &str| PeerName { uuid: String::new(), hostname: host.into() };
        let plan = PoolRecoverReply {
            lost: vec![name("n1"), name("n2")],
            staying: vec![name("n3")],
            nothing: vec!["volume gv0 set 1: all its copies are on lost peers".into()],
            ..PoolRecoverReply::default()
        };
        let text = told(&plan);
        for words in ["goes on with: n3\n", "answer: n1, n2\n", "NO COPY: volume gv0 set 1"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
