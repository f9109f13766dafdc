//! What a mount asks: a ticket for the data ports, and the volume's map as it changes.

use std::net::IpAddr;

use proto::map::VolumeMap;
use proto::{SessionId, VolumeId};
use proto_grpc::connect::fingerprint;
use proto_grpc::control::volume_server::Volume;
use proto_grpc::control::{GetTicketReply, GetTicketRequest, MapUpdate, WatchMapRequest};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::caller::{self, Caller};
use crate::pool::ticket::{Holder, Ticket, VALID_S};
use crate::pool::{Pool, files, identity};

/// Maps on their way to one client; a slower one gets the newest next.
const MAPS_MAX: usize = 2;

pub struct Service(pub Pool);

#[tonic::async_trait]
impl Volume for Service {
    async fn get_ticket(
        &self,
        request: Request<GetTicketRequest>,
    ) -> Result<Response<GetTicketReply>, Status> {
        let caller = caller::caller(&self.0, &request)?;
        let remote = caller::connection(&request).remote;
        let request = request.into_inner();
        let state = self.0.state();
        let volume =
            state.volume_by_name(&request.volume).ok_or_else(|| unknown(&request.volume))?;
        if !volume.started {
            let why = format!("Volume {0} is not started; 'brick volume start {0}'", volume.name);
            return Err(Status::failed_precondition(why));
        }
        let options = volume.parsed_options();
        let is_local = matches!(
            &caller,
            Caller::Local | Caller::Mount(Ticket { holder: Holder::Peer(_), .. })
        );
        if !is_local && !admitted(remote, &options.auth_allow, &options.auth_reject) {
            return Err(Status::permission_denied(
                "this address may not mount (auth.allow, auth.reject)",
            ));
        }
        let key = self.0.ticket_key().ok_or_else(|| Status::unavailable("no pool state yet"))?;
        let ticket = match caller {
            Caller::Mount(held) if held.volume != volume.id => return Err(other_volume()),
            // The same session with the same rights, for another while.
            Caller::Mount(held) => Ticket { expires_s: files::wall_s() + VALID_S, ..held },
            Caller::Local => self.first_ticket(volume.id, Holder::Peer(self.0.id()), &request)?,
            Caller::Client(name) => self.first_ticket(volume.id, Holder::Client(name), &request)?,
        };
        let ca = state.secrets.as_ref().map(|s| identity::certificate_of(&s.ca_pem)).transpose();
        let ca = ca.map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(GetTicketReply {
            ticket: ticket.encode(&key),
            session: ticket.session.0,
            valid_s: VALID_S,
            volume_id: volume.id.as_bytes().to_vec(),
            read_only: ticket.read_only,
            ca: ca.map(|ca| fingerprint(&ca).to_vec()).unwrap_or_default(),
        }))
    }

    type WatchMapStream = ReceiverStream<Result<MapUpdate, Status>>;

    async fn watch_map(
        &self,
        request: Request<WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let caller = caller::caller(&self.0, &request)?;
        let request = request.into_inner();
        let id = self.0.state().volume_by_name(&request.volume).map(|v| v.id);
        if matches!(&caller, Caller::Mount(held) if id.is_some_and(|id| id != held.volume)) {
            return Err(other_volume());
        }
        let maps =
            id.and_then(|id| self.0.watch_map(id)).ok_or_else(|| unknown(&request.volume))?;
        let (sender, receiver) = mpsc::channel(MAPS_MAX);
        tokio::spawn(send_maps(maps, request.known_version, sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Service {
    fn first_ticket(
        &self,
        volume: VolumeId,
        holder: Holder,
        request: &GetTicketRequest,
    ) -> Result<Ticket, Status> {
        Ok(Ticket {
            volume,
            session: new_session()?,
            holder,
            read_only: request.read_only,
            expires_s: files::wall_s() + VALID_S,
            subdir: plain_subdir(&request.subdir)?,
        })
    }
}

fn other_volume() -> Status {
    Status::permission_denied("the ticket is for another volume; mount again")
}

fn unknown(volume: &str) -> Status {
    Status::not_found(format!("Volume {volume} does not exist"))
}

fn new_session() -> Result<SessionId, Status> {
    let random = files::random().map_err(|e| Status::internal(e.to_string()))?;
    Ok(SessionId(u64::from_le_bytes(random).max(1)))
}

/// Absolute without `..`; empty for the whole volume.
fn plain_subdir(path: &str) -> Result<String, Status> {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty() && *p != ".").collect();
    if path.len() > 4096 || parts.contains(&"..") || path.contains('\0') {
        return Err(Status::invalid_argument("the subdirectory must be a plain path"));
    }
    Ok(parts.iter().fold(String::new(), |all, part| all + "/" + part))
}

/// Sends the map at once and after every change, until the client or the volume is gone.
async fn send_maps(
    mut maps: watch::Receiver<std::sync::Arc<VolumeMap>>,
    known: u64,
    sender: mpsc::Sender<Result<MapUpdate, Status>>,
) {
    let mut sent = known;
    loop {
        let map = maps.borrow_and_update().clone();
        if map.version > sent {
            sent = map.version;
            let Ok(text) = serde_json::to_vec(map.as_ref()) else { return };
            if sender.send(Ok(MapUpdate { version: map.version, map: text })).await.is_err() {
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = maps.changed() => if changed.is_err() {
                let gone = MapUpdate { version: u64::MAX, map: Vec::new() };
                let _ = sender.send(Ok(gone)).await;
                return;
            }
        }
    }
}

/// `auth.reject` wins over `auth.allow`; an empty `allow` lets everybody in.
fn admitted(remote: Option<IpAddr>, allow: &str, reject: &str) -> bool {
    let listed = |list: &str| {
        let Some(address) = remote else { return false };
        list.split(',').filter(|p| !p.is_empty()).any(|pattern| matches(address, pattern.trim()))
    };
    !listed(reject) && (allow.is_empty() || listed(allow))
}

/// An address, a network as `10.0.0.0/8`, or text with `*`.
fn matches(address: IpAddr, pattern: &str) -> bool {
    if let Some((network, bits)) = pattern.split_once('/') {
        let (Ok(network), Ok(bits)) = (network.parse::<IpAddr>(), bits.parse::<u32>()) else {
            return false;
        };
        let left = |ip: IpAddr, bits: u32| match ip {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96).checked_shr(128 - bits.min(32)),
            IpAddr::V6(ip) => ip.to_bits().checked_shr(128 - bits.min(128)),
        };
        return address.is_ipv4() == network.is_ipv4()
            && left(address, bits) == left(network, bits);
    }
    glob(address.to_string().as_bytes(), pattern.as_bytes())
}

fn glob(text: &[u8], pattern: &[u8]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some((b'*', rest)) => (0..=text.len()).any(|skip| glob(&text[skip..], rest)),
        Some((byte, rest)) => text.first() == Some(byte) && glob(&text[1..], rest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lets_in(address: &str, allow: &str, reject: &str) -> bool {
        admitted(Some(address.parse().unwrap()), allow, reject)
    }

    #[test]
    fn allow_and_reject_lists() {
        assert!(lets_in("10.0.0.1", "", ""));
        assert!(lets_in("10.0.0.1", "10.0.0.1,10.9.*", ""));
        assert!(lets_in("10.9.3.4", "10.0.0.1,10.9.*", ""));
        assert!(!lets_in("10.8.3.4", "10.0.0.1,10.9.*", ""));
        assert!(!lets_in("10.0.0.1", "*", "10.0.0.0/24"));
        assert!(lets_in("10.0.1.1", "10.0.0.0/23", "10.0.0.0/24"));
        assert!(lets_in("fd00::1", "fd00::/8", ""));
        assert!(!lets_in("10.0.0.1", "fd00::/8,10.0.0.1/x", ""));
        assert!(!admitted(None, "10.*", ""));
    }

    #[test]
    fn subdirectories_are_plain() {
        assert_eq!(plain_subdir("").unwrap(), "");
        assert_eq!(plain_subdir("/a//b/./c/").unwrap(), "/a/b/c");
        assert!(plain_subdir("/a/../b").is_err());
    }
}
