//! `volume heal VOL info | watch | split-brain source-brick BRICK force`.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use proto_grpc::control::{HealBrick, HealInfoReply, HealSourceRequest, VolumeRequest};
use tokio_stream::StreamExt;

use crate::connection::Control;
use crate::grammar::brick_address;
use crate::output::{Failure, Output, print};
use crate::volumes::done;

/// What follows the name.
pub async fn run(
    control: &mut Control,
    output: Output,
    name: String,
    words: &[String],
) -> Result<(), Failure> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let (brick, force) = match words[..] {
        [] | ["info"] => return info(control, output, name).await,
        ["watch"] => return watch(control, output, name).await,
        ["split-brain", "source-brick", brick] => (brick, false),
        ["split-brain", "source-brick", brick, "force"] => (brick, true),
        _ => {
            return Err(Failure::usage(format!(
                "volume heal: {name}: '{}' is not one of info, watch, split-brain source-brick \
                 HOST:/PATH force (heals start by themselves); see 'brick volume heal --help'",
                words.join(" ")
            )));
        }
    };
    let command = format!("volume heal: {name}");
    let brick = brick_address(brick).map_err(|why| Failure::usage(format!("{command}: {why}")))?;
    let request = HealSourceRequest { name, brick: Some(brick), force };
    done(output, &command, control.heal_source(request).await)
}

pub async fn info(control: &mut Control, output: Output, name: String) -> Result<(), Failure> {
    let command = format!("volume heal: {name}");
    let reply = control.heal_info(VolumeRequest { name }).await;
    let reply = reply.map_err(|e| Failure::of(&command, &e))?.into_inner();
    output.reply(&reply, text);
    Ok(())
}

fn text(reply: &HealInfoReply) -> String {
    let mut text = String::new();
    for brick in &reply.bricks {
        text += &format!("Brick {}:{}\nState: {}\n", brick.host, brick.path, brick.state);
        if !brick.known {
            text += "Pending: unknown, its peer does not answer\n\n";
            continue;
        }
        text += &format!("Pending: {} entries, {}\n", brick.pending, size(brick.bytes));
        if brick.rate > 0 || brick.eta_s.is_some() {
            text += &format!("Rate: {}/s\nETA: {}\n", size(brick.rate), eta(brick.eta_s));
        }
        if !brick.oldest.is_empty() {
            text += &format!("Oldest: {}\n", brick.oldest);
        }
        text.push('\n');
    }
    text + &summary(reply)
}

fn summary(reply: &HealInfoReply) -> String {
    match reply.complete {
        true => format!("{}: all bricks are in-sync, nothing is pending", reply.volume),
        false => format!(
            "{}: {} entries, {} pending, {}/s, ETA {}{}",
            reply.volume,
            reply.pending,
            size(reply.bytes),
            size(reply.rate),
            eta(reply.eta_s),
            match reply.bricks.iter().filter(|b| !b.known).count() {
                0 => String::new(),
                n => format!(", and {n} of {} bricks unknown", reply.bricks.len()),
            }
        ),
    }
}

fn eta(seconds: Option<u64>) -> String {
    match seconds {
        None => "unknown".into(),
        Some(s) if s < 60 => format!("{s} s"),
        Some(s) if s < 3600 => format!("{} min {} s", s / 60, s % 60),
        Some(s) => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

/// Bars on a terminal, a line per change elsewhere; ends when nothing is left to heal.
pub async fn watch(control: &mut Control, output: Output, name: String) -> Result<(), Failure> {
    let command = format!("volume heal: {name}");
    let stream = control.heal_watch(VolumeRequest { name }).await;
    let mut stream = stream.map_err(|e| Failure::of(&command, &e))?.into_inner();
    let bars = (std::io::stdout().is_terminal() && !output.json).then(Bars::default);
    let mut bars = bars;
    let mut last = String::new();
    while let Some(reply) = stream.next().await {
        let reply = reply.map_err(|e| Failure::of(&command, &e))?;
        match &mut bars {
            Some(bars) => bars.show(&reply),
            None if output.json => output.reply(&reply, text),
            None => {
                let line = summary(&reply);
                if line != last {
                    print(&line);
                    last = line;
                }
            }
        }
        if reply.complete {
            if let Some(bars) = bars.take() {
                bars.finish();
                print(&summary(&reply));
            }
            return Ok(());
        }
    }
    Err(Failure::not_running())
}

#[derive(Default)]
struct Bars {
    all: MultiProgress,
    by_brick: BTreeMap<String, ProgressBar>,
}

impl Bars {
    fn show(&mut self, reply: &HealInfoReply) {
        for brick in &reply.bricks {
            let name = format!("{}:{}", brick.host, brick.path);
            let bar = self.by_brick.entry(name.clone()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(0));
                let form = "{prefix}  {bar:30} {bytes}/{total_bytes}  {msg}";
                bar.set_style(
                    ProgressStyle::with_template(form)
                        .unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar.with_prefix(name)
            });
            bar.set_length(brick.done_bytes + brick.bytes);
            bar.set_position(brick.done_bytes);
            bar.set_message(message(brick));
        }
    }

    fn finish(self) {
        for bar in self.by_brick.values() {
            bar.finish_and_clear();
        }
    }
}

fn message(brick: &HealBrick) -> String {
    match (brick.known, brick.state.as_str()) {
        (false, _) => "its peer does not answer".into(),
        (true, "in-sync") if brick.pending == 0 => "in-sync".into(),
        (true, state) => format!(
            "{state}, {} entries, {}/s, ETA {}",
            brick.pending,
            size(brick.rate),
            eta(brick.eta_s)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sums_read_well() {
        assert_eq!(eta(None), "unknown");
        assert_eq!(eta(Some(59)), "59 s");
        assert_eq!(eta(Some(61)), "1 min 1 s");
        assert_eq!(eta(Some(7300)), "2 h 1 min");
        let reply = HealInfoReply {
            volume: "gv0".into(),
            pending: 3,
            bytes: 2048,
            rate: 1024,
            eta_s: Some(2),
            ..HealInfoReply::default()
        };
        assert_eq!(summary(&reply), "gv0: 3 entries, 2.00 KiB pending, 1.00 KiB/s, ETA 2 s");
    }
}
