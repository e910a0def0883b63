//! Everything of Keyward that crosses a socket.
//!
//! - [`resp`]: what clients speak, as a codec without sockets.
//! - [`admin`], [`control`], [`forward`], [`replication`] (feature `grpc`): generated from the `.proto` files of this
//!   crate: operators to nodes, Raft peers among each other, commands on their way to the primary, its effects on
//!   theirs to the replicas.
//!
//! Within a major version fields and methods are only added, never renumbered or reused: a newer node
//! talks to an older one during every rolling update. Sockets, retries and meaning live elsewhere.

pub mod resp;

/// What operators ask of a cluster: users, nodes, history, snapshots. Package `keyward.admin.v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all)]
pub mod admin {
    include!("gen/keyward.admin.v1.rs");
}

/// What Raft peers say to each other. Package `keyward.control.v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all)]
pub mod control {
    include!("gen/keyward.control.v1.rs");
}

/// Commands on their way to the primary. Package `keyward.forward.v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all)]
pub mod forward {
    include!("gen/keyward.forward.v1.rs");
}

/// The primary's effects on their way to replicas. Package `keyward.replication.v1`.
#[cfg(feature = "grpc")]
#[allow(missing_docs, clippy::all)]
pub mod replication {
    include!("gen/keyward.replication.v1.rs");
}

/// All packages as an encoded `FileDescriptorSet`, for the gRPC reflection service.
#[cfg(feature = "grpc")]
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("gen/descriptor.bin");

/// Roles as scripts spell them.
#[cfg(feature = "serde")]
fn role_name<S: serde::Serializer>(role: &i32, serializer: S) -> Result<S::Ok, S::Error> {
    let role = admin::ControlRole::try_from(*role).unwrap_or_default();
    let name = role.as_str_name().trim_start_matches("CONTROL_ROLE_").to_ascii_lowercase();
    serializer.serialize_str(&name)
}
