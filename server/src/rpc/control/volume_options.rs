//! `volume set | get | reset`.

use proto::options::{OPTIONS, OptionHelp, VolumeOptions};
use proto_grpc::control::{
    Message, VolumeGetReply, VolumeGetRequest, VolumeOption, VolumeSetRequest,
};
use tonic::Status;

use super::{commit, message, refuse};
use crate::pool::Pool;
use crate::pool::command::Command;

pub async fn set(pool: &Pool, request: VolumeSetRequest) -> Result<Message, Status> {
    if request.options.is_empty() {
        return Err(refuse("no option given; 'brick volume set help' lists them all"));
    }
    let options: Vec<_> = request.options.into_iter().map(|o| (o.name, o.value)).collect();
    let mut checked = VolumeOptions::default();
    for (name, value) in &options {
        checked.set(name, value).map_err(refuse)?;
    }
    commit(pool, Command::SetOptions { name: request.name, options }).await?;
    Ok(message("success"))
}

pub async fn get(pool: &Pool, request: VolumeGetRequest) -> Result<VolumeGetReply, Status> {
    let state = pool.state();
    let volume = state
        .volume_by_name(&request.name)
        .ok_or_else(|| refuse(format!("Volume {} does not exist", request.name)))?;
    let wanted =
        |o: &&OptionHelp| matches!(request.option.as_str(), "" | "all") || o.name == request.option;
    let options: Vec<VolumeOption> = OPTIONS
        .iter()
        .filter(wanted)
        .map(|o| VolumeOption {
            name: o.name.into(),
            value: volume.options.get(o.name).cloned().unwrap_or_else(|| o.default.into()),
            default_value: o.default.into(),
            range: o.range.into(),
            meaning: o.meaning.into(),
        })
        .collect();
    if options.is_empty() {
        let why =
            format!("unknown option {}; 'brick volume set help' lists them all", request.option);
        return Err(refuse(why));
    }
    Ok(VolumeGetReply { options })
}

pub async fn reset(pool: &Pool, request: VolumeGetRequest) -> Result<Message, Status> {
    let option = Some(request.option).filter(|o| !matches!(o.as_str(), "" | "all"));
    commit(pool, Command::ResetOptions { name: request.name, option }).await?;
    Ok(message("success"))
}
