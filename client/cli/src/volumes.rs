//! `volume create | start | stop | delete | info | status | list | set | get | reset`.

use proto::options::OPTIONS;
use proto_grpc::control::{
    BrickStatus, Message, OptionValue, VolumeForceRequest, VolumeGetRequest, VolumeInfo,
    VolumeRequest, VolumeSetRequest, VolumeStatus, VolumeStatusRequest,
};
use tonic::{Response, Status};

use crate::arguments::{Force, VolumeCommand};
use crate::connection::Control;
use crate::output::{Failure, Output};
use crate::{bricks, grammar, heal};

pub async fn run(
    control: &mut Control,
    output: Output,
    command: VolumeCommand,
) -> Result<(), Failure> {
    match command {
        VolumeCommand::Create { name, words } => create(control, output, &name, &words).await,
        VolumeCommand::Start { name, force } => {
            let request = VolumeForceRequest { name: name.clone(), force: force.is_some() };
            done(output, &format!("volume start: {name}"), control.volume_start(request).await)
        }
        VolumeCommand::Stop { name, force } => stop(control, output, name, force).await,
        VolumeCommand::Delete { name } => delete(control, output, name).await,
        VolumeCommand::Info { name } => info(control, output, name).await,
        VolumeCommand::Status { name, detail } => {
            status(control, output, name, detail.is_some()).await
        }
        VolumeCommand::List => list(control, output).await,
        VolumeCommand::Set { name, words } => set(control, output, name, &words).await,
        VolumeCommand::Get { name, option } => get(control, output, name, option).await,
        VolumeCommand::Reset { name, option, .. } => {
            let option = option.filter(|o| o != "force").unwrap_or_default();
            let request = VolumeGetRequest { name, option };
            done(output, "volume reset", control.volume_reset(request).await)
        }
        VolumeCommand::ReplaceBrick { name, words } => {
            bricks::replace(control, output, &name, &words).await
        }
        VolumeCommand::ResetBrick { name, words } => {
            bricks::reset(control, output, &name, &words).await
        }
        VolumeCommand::AddBrick { name, words } => {
            bricks::add(control, output, &name, &words).await
        }
        VolumeCommand::RemoveBrick { name, words } => {
            bricks::remove(control, output, &name, &words).await
        }
        VolumeCommand::Heal { name, words } => heal::run(control, output, name, &words).await,
    }
}

/// `volume start: gv0: success`, or the failure in the same form.
pub fn done(
    output: Output,
    command: &str,
    reply: Result<Response<Message>, Status>,
) -> Result<(), Failure> {
    let reply = reply.map_err(|e| Failure::of(command, &e))?.into_inner();
    output.reply(&reply, |r| format!("{command}: {}", r.message));
    Ok(())
}

async fn create(
    control: &mut Control,
    output: Output,
    name: &str,
    words: &[String],
) -> Result<(), Failure> {
    let request = grammar::create(name, words)
        .map_err(|why| Failure::usage(format!("volume create: {name}: {why}")))?;
    done(output, &format!("volume create: {name}"), control.volume_create(request).await)
}

async fn stop(
    control: &mut Control,
    output: Output,
    name: String,
    force: Option<Force>,
) -> Result<(), Failure> {
    let question = "Stopping volume will make its data inaccessible. Do you want to continue?";
    if !output.confirmed(question) {
        return Err(Failure::plain("volume stop: nothing was changed"));
    }
    let request = VolumeForceRequest { name: name.clone(), force: force.is_some() };
    done(output, &format!("volume stop: {name}"), control.volume_stop(request).await)
}

async fn delete(control: &mut Control, output: Output, name: String) -> Result<(), Failure> {
    let question =
        "Deleting volume will erase all information about the volume. Do you want to continue?";
    if !output.confirmed(question) {
        return Err(Failure::plain("volume delete: nothing was changed"));
    }
    let request = VolumeRequest { name: name.clone() };
    done(output, &format!("volume delete: {name}"), control.volume_delete(request).await)
}

async fn info(control: &mut Control, output: Output, name: Option<String>) -> Result<(), Failure> {
    let request = VolumeRequest { name: name.unwrap_or_default() };
    let reply = control.volume_info(request).await.map_err(|e| Failure::of("", &e))?.into_inner();
    output.reply(&reply, |r| match r.volumes.is_empty() {
        true => "No volumes present".into(),
        false => r.volumes.iter().map(info_text).collect::<Vec<_>>().join("\n\n"),
    });
    Ok(())
}

fn info_text(volume: &VolumeInfo) -> String {
    let mut text = format!(
        "Volume Name: {}\nType: {}\nVolume ID: {}\nStatus: {}\nNumber of Bricks: {}\n\
         Transport-type: {}\nBricks:",
        volume.name,
        volume.r#type,
        volume.uuid,
        volume.status,
        brick_count(volume),
        volume.transport
    );
    for (n, brick) in volume.bricks.iter().enumerate() {
        text += &format!("\nBrick{}: {}:{}", n + 1, brick.host, brick.path);
        if !brick.change.is_empty() {
            text += &format!(" ({})", brick.change);
        }
    }
    if !volume.options.is_empty() {
        text += "\nOptions Reconfigured:";
    }
    for option in &volume.options {
        text += &format!("\n{}: {}", option.name, option.value);
    }
    text
}

fn brick_count(volume: &VolumeInfo) -> String {
    let total = volume.num_bricks;
    match (volume.stripe > 1, volume.replica > 1) {
        (false, false) => total.to_string(),
        (true, false) => format!("{} x {} = {total}", volume.distribute, volume.stripe),
        (false, true) => format!("{} x {} = {total}", volume.distribute, volume.replica),
        (true, true) => {
            format!("{} x {} x {} = {total}", volume.distribute, volume.stripe, volume.replica)
        }
    }
}

async fn status(
    control: &mut Control,
    output: Output,
    name: Option<String>,
    detail: bool,
) -> Result<(), Failure> {
    let request = VolumeStatusRequest { name: name.unwrap_or_default(), detail };
    let text = if detail { detail_text } else { status_text };
    let reply = control.volume_status(request).await.map_err(|e| Failure::of("", &e))?.into_inner();
    output.reply(&reply, |r| match r.volumes.is_empty() {
        true => "No volumes present".into(),
        false => r.volumes.iter().map(text).collect::<Vec<_>>().join("\n\n"),
    });
    Ok(())
}

/// As GlusterFS prints it, name by name.
fn detail_text(volume: &VolumeStatus) -> String {
    let line = "-".repeat(78);
    let mut text = format!("Status of volume: {}", volume.name);
    for brick in &volume.bricks {
        let detail = brick.detail.clone().unwrap_or_default();
        let number = |n: u64| if n == 0 { "N/A".to_owned() } else { n.to_string() };
        let word = |w: &str| if w.is_empty() { "N/A".to_owned() } else { w.to_owned() };
        let size = |n: u64| if n == 0 { "N/A".to_owned() } else { disk_size(n) };
        let online = if brick.online { "Y" } else { "N" };
        let rows = [
            ("Brick", format!("Brick {}:{}", brick.host, brick.path)),
            ("TCP Port", number(brick.port.into())),
            ("Online", online.to_owned()),
            ("Pid", number(brick.pid.into())),
            ("State", brick.state.clone()),
            ("File System", word(&detail.fs_name)),
            ("Device", word(&detail.device)),
            ("Mount Options", word(&detail.mount_options)),
            ("Inode Size", number(detail.inode_size.into())),
            ("Disk Space Free", size(detail.size_free)),
            ("Total Disk Space", size(detail.size_total)),
            ("Inode Count", number(detail.total_inodes)),
            ("Free Inodes", number(detail.free_inodes)),
        ];
        text += &format!("\n{line}");
        for (name, value) in rows {
            text += &format!("\n{name:<20} : {value:<20}").trim_end().replace("\n\n", "\n");
        }
    }
    for alarm in &volume.alarms {
        text += &format!("\nALARM: {alarm}");
    }
    text
}

/// As GlusterFS prints sizes: one decimal, powers of 1024.
fn disk_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    let mut unit = "Bytes";
    for next in ["KB", "MB", "GB", "TB", "PB"] {
        if size < 1024.0 {
            break;
        }
        (size, unit) = (size / 1024.0, next);
    }
    format!("{size:.1}{unit}")
}

fn status_text(volume: &VolumeStatus) -> String {
    let name = |b: &BrickStatus| format!("{}:{}", b.host, b.path);
    let width = volume.bricks.iter().map(|b| name(b).len()).max().unwrap_or(0).max(5);
    let mut text = format!(
        "Status of volume: {} ({})\n{:width$}  Port   Online  Pid      State    Epoch   Lead  Incarnation",
        volume.name, volume.status, "Brick"
    );
    for brick in &volume.bricks {
        let known = |n: u32| if n == 0 { "N/A".to_owned() } else { n.to_string() };
        text += &format!(
            "\n{:width$}  {:5}  {:6}  {:7}  {:7}  {:6}  {:4}  {:x}",
            name(brick),
            known(brick.port),
            if brick.online { "Y" } else { "N" },
            known(brick.pid),
            brick.state,
            brick.epoch,
            if brick.lead { "Y" } else { "" },
            brick.incarnation
        );
        if !brick.reason.is_empty() {
            text += &format!("\n{:width$}  ({})", "", brick.reason);
        }
    }
    for alarm in &volume.alarms {
        text += &format!("\nALARM: {alarm}");
    }
    text
}

async fn list(control: &mut Control, output: Output) -> Result<(), Failure> {
    let reply = control.volume_info(VolumeRequest::default()).await;
    let reply = reply.map_err(|e| Failure::of("", &e))?.into_inner();
    let names: Vec<_> = reply.volumes.iter().map(|v| v.name.as_str()).collect();
    output.reply(&serde_json::json!({ "volumes": names }), |_| match names.is_empty() {
        true => "No volumes present in cluster".into(),
        false => names.join("\n"),
    });
    Ok(())
}

async fn set(
    control: &mut Control,
    output: Output,
    name: String,
    words: &[String],
) -> Result<(), Failure> {
    if words.is_empty() || !words.len().is_multiple_of(2) {
        return Err(Failure::usage(
            "volume set: expected NAME OPTION VALUE [OPTION VALUE...]; 'brick volume set help' lists the options",
        ));
    }
    let options = words
        .chunks(2)
        .map(|pair| OptionValue { name: pair[0].clone(), value: pair[1].clone() })
        .collect();
    done(output, "volume set", control.volume_set(VolumeSetRequest { name, options }).await)
}

async fn get(
    control: &mut Control,
    output: Output,
    name: String,
    option: String,
) -> Result<(), Failure> {
    let reply = control.volume_get(VolumeGetRequest { name, option }).await;
    let reply = reply.map_err(|e| Failure::of("volume get", &e))?.into_inner();
    output.reply(&reply, |r| {
        let width = r.options.iter().map(|o| o.name.len()).max().unwrap_or(0).max(6);
        let mut lines = vec![format!("{:width$}  Value", "Option")];
        lines.extend(r.options.iter().map(|o| format!("{:width$}  {}", o.name, o.value)));
        lines.join("\n")
    });
    Ok(())
}

/// `volume set help`: needs no daemon.
pub fn options_help(output: Output) {
    let options: Vec<_> = OPTIONS
        .iter()
        .map(|o| {
            serde_json::json!({
                "name": o.name, "default_value": o.default, "range": o.range, "meaning": o.meaning
            })
        })
        .collect();
    output.reply(&serde_json::json!({ "options": options }), |_| {
        let text = OPTIONS.iter().map(|o| {
            format!(
                "Option: {}\nDefault Value: {}\nRange: {}\nDescription: {}",
                o.name, o.default, o.range, o.meaning
            )
        });
        text.collect::<Vec<_>>().join("\n\n")
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bricks_are_counted_as_glusterfs_counts_them() {
        let shown = |stripe, replica, num_bricks| {
            let distribute = num_bricks / (stripe * replica);
            brick_count(&VolumeInfo {
                distribute,
                stripe,
                replica,
                num_bricks,
                ..Default::default()
            })
        };
        assert_eq!(shown(1, 1, 3), "3");
        assert_eq!(shown(1, 3, 3), "1 x 3 = 3");
        assert_eq!(shown(2, 1, 2), "1 x 2 = 2");
        assert_eq!(shown(2, 2, 4), "1 x 2 x 2 = 4");
        assert_eq!(shown(1, 2, 6), "3 x 2 = 6");
        assert_eq!(shown(4, 1, 8), "2 x 4 = 8");
        assert_eq!(shown(2, 2, 8), "2 x 2 x 2 = 8");
    }
}
