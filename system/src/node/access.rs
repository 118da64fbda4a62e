//! Who may use which service. Does not know how a caller has shown who it is.

use proto::v1 as pb;
use tonic::{Code, Status};

use super::kv_service;
use crate::{
    answer::{ReasonKind, refusal},
    tls::{Caller, Role},
};

pub(super) const PEER: &str = pb::peer_server::SERVICE_NAME;
const INSPECT: &str = pb::inspect_server::SERVICE_NAME;
/// The one method for everybody: what watches over processes has no certificate. The health service can also be
/// watched, which would let a stranger keep a call in progress for ever.
const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";

/// Whether a caller may make a call.
///
/// # Errors
/// It may not. The call has no effect.
pub(super) fn check(caller: Caller, path: &str) -> Result<(), Status> {
    let role = match caller {
        Caller::Anybody => return Ok(()),
        _ if path == HEALTH_CHECK => return Ok(()),
        Caller::Known(role) => Some(role),
        Caller::Stranger | Caller::Roleless => None,
    };
    let service = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let (service, takers) = match service {
        Some((service @ kv_service::SERVICE, _)) => (service, "clients and administrators"),
        Some((service @ PEER, _)) => (service, "nodes"),
        Some((service @ INSPECT, _)) => (service, "administrators"),
        // Reflection, watching the health, and what does not exist.
        _ if role.is_some() => return Ok(()),
        _ => ("this service", "holders of a certificate"),
    };
    let may = match role {
        Some(Role::Admin) => service != PEER,
        Some(Role::Client) => service == kv_service::SERVICE,
        Some(Role::Node(_)) => service == PEER,
        None => false,
    };
    if may {
        return Ok(());
    }
    let (code, who) = match caller {
        Caller::Known(role) => {
            (Code::PermissionDenied, format!("this connection has the certificate of {role}"))
        }
        Caller::Roleless => (
            Code::PermissionDenied,
            "the certificate of this connection names no role, or several".to_owned(),
        ),
        Caller::Stranger | Caller::Anybody => {
            (Code::Unauthenticated, "this connection has no certificate".to_owned())
        }
    };
    Err(refusal(code, ReasonKind::Denied, format!("{service} is for {takers}, and {who}"), []))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Node;

    #[test]
    fn each_service_is_for_some_roles() {
        const KV: &str = "/twopc.v1.Kv/Put";
        const EXCHANGE: &str = "/twopc.v1.Peer/Exchange";
        const STATUS: &str = "/twopc.v1.Inspect/Status";
        const WATCH: &str = "/grpc.health.v1.Health/Watch";
        const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
        let all =
            [KV, EXCHANGE, STATUS, WATCH, REFLECTION, HEALTH_CHECK, "/no.Such/Method", "nonsense"];
        let open: &[&str] = &[WATCH, REFLECTION, HEALTH_CHECK, "/no.Such/Method", "nonsense"];
        for (caller, may) in [
            (Caller::Anybody, &all[..]),
            (Caller::Stranger, &[HEALTH_CHECK]),
            (Caller::Roleless, &[HEALTH_CHECK]),
            (Caller::Known(Role::Client), &[&[KV], open].concat()),
            (Caller::Known(Role::Admin), &[&[KV, STATUS], open].concat()),
            (Caller::Known(Role::Node(Node::Master)), &[&[EXCHANGE], open].concat()),
            (Caller::Known(Role::Node(Node::Replica(1))), &[&[EXCHANGE], open].concat()),
        ] {
            for path in all {
                assert_eq!(check(caller, path).is_ok(), may.contains(&path), "{caller:?} {path}");
            }
        }
        let denied = check(Caller::Known(Role::Client), STATUS).expect_err("not for clients");
        assert_eq!(denied.code(), Code::PermissionDenied);
        assert_eq!(
            denied.message(),
            "twopc.v1.Inspect is for administrators, and this connection has the certificate of client"
        );
        assert_eq!(check(Caller::Stranger, KV).map_err(|it| it.code()), Err(Code::Unauthenticated));
    }
}
