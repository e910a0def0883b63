//! `REPLCONF` and `SYNC`, as far as `redis-cli --rdb` needs them: a client says that it wants a copy of the data and nothing
//! after it, and gets a snapshot. It knows nothing of files.
//!
//! Whoever would follow the writes as well is refused: nodes replicate over their own protocol.

use crate::args::Args;
use crate::asks::Ask;
use crate::error::CommandError;
use crate::reply::Reply;
use crate::session::{Session, Surroundings};

const NO_REPLICAS: &str = "nodes replicate over their own protocol; clients may copy all data by redis-cli --rdb";

/// `REPLCONF capa x`, `REPLCONF rdb-only 0|1`.
pub(super) fn replconf(
    session: &mut Session,
    _: &Surroundings<'_>,
    mut args: Args<'_>,
    reply: &mut Reply,
) -> Result<(), CommandError> {
    while !args.is_empty() {
        if args.accept("capa") {
            // What it could understand besides plain files: they are plain here.
            args.take()?;
        } else if args.accept("rdb-only") {
            session.wants_copy = args.integer()? != 0;
        } else {
            return Err(CommandError::err(format!("REPLCONF is not available: {NO_REPLICAS}")));
        }
    }
    reply.ok();
    Ok(())
}

/// `SYNC`.
pub(super) fn sync(session: &Session, _: &Surroundings<'_>, _: Args<'_>) -> Result<Ask, CommandError> {
    if !session.wants_copy {
        return Err(CommandError::err(format!("SYNC is not available: {NO_REPLICAS}")));
    }
    Ok(Ask::SendCopy)
}
