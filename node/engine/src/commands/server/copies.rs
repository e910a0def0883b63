//! `REPLCONF` and `SYNC`, as far as `redis-cli --rdb` needs them: a client says that it wants a copy of the data and nothing
//! after it, and gets a snapshot. It knows nothing of files.
//!
//! Whoever would follow the writes as well is refused: nodes replicate over their own protocol.

use crate::args::Args;
use crate::asks::Ask;
use crate::error::CommandError;
use crate::reply::Reply;
use crate::session::{CopyHolds, Session, Surroundings};

const NO_REPLICAS: &str = "nodes replicate over their own protocol; clients may copy all data by redis-cli --rdb";

/// `REPLCONF capa x`, `REPLCONF rdb-only 0|1`, `REPLCONF rdb-filter-only functions`.
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
        } else if args.accept("rdb-filter-only") {
            session.copy_holds = match args.take()? {
                b"" => CopyHolds::Nothing,
                word if word.eq_ignore_ascii_case(b"functions") => CopyHolds::Functions,
                word => return Err(CommandError::quoting(b"ERR Unsupported rdb-filter-only option: ", &[(word, b"")])),
            };
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
    Ok(Ask::SendCopy(session.copy_holds))
}
