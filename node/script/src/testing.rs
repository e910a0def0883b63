//! What the tests of this crate share: a machine with a small world of strings around it.

use std::collections::BTreeMap;

use crate::{CallOptions, Host, Interrupt, Invocation, Limits, LogLevel, Machine, Replication, Resp};

/// A world that knows a few commands.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) strings: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) log: Vec<(LogLevel, String)>,
    pub(crate) replication: Option<Replication>,
    /// Questions that are answered with yes before the script must end.
    pub(crate) patience: Option<u32>,
}

impl Host for World {
    fn call(&mut self, argv: &[&[u8]], options: CallOptions, reply: &mut Vec<u8>) {
        let mut bulk = |value: Option<&[u8]>| match value {
            Some(value) => {
                reply.extend_from_slice(format!("${}\r\n", value.len()).as_bytes());
                reply.extend_from_slice(value);
                reply.extend_from_slice(b"\r\n");
            }
            None if options.resp == Resp::Three => reply.extend_from_slice(b"_\r\n"),
            None => reply.extend_from_slice(b"$-1\r\n"),
        };
        let name = String::from_utf8_lossy(argv[0]).to_ascii_lowercase();
        match (name.as_str(), &argv[1..]) {
            ("get", [key]) => bulk(self.strings.get(*key).map(Vec::as_slice)),
            ("set", [key, value]) => {
                self.strings.insert(key.to_vec(), value.to_vec());
                reply.extend_from_slice(b"+OK\r\n");
            }
            ("echo", [value]) => bulk(Some(value)),
            ("raw", [bytes]) => reply.extend_from_slice(bytes),
            ("get" | "set", _) => reply.extend_from_slice(b"-ERR Wrong number of args calling command from script\r\n"),
            _ => reply.extend_from_slice(b"-ERR Unknown command called from script\r\n"),
        }
    }

    fn acl_check(&mut self, argv: &[&[u8]]) -> Result<bool, String> {
        match argv[0] {
            b"get" => Ok(true),
            b"set" => Ok(false),
            _ => Err("ERR Invalid command passed to server.acl_check_cmd()".to_owned()),
        }
    }

    fn log(&mut self, level: LogLevel, message: &[u8]) {
        self.log.push((level, String::from_utf8_lossy(message).into_owned()));
    }

    fn set_replication(&mut self, to: Replication) {
        self.replication = Some(to);
    }

    fn interrupted(&mut self) -> Interrupt {
        let Some(patience) = &mut self.patience else { return Interrupt::Continue };
        if *patience == 0 {
            return Interrupt::Stop("ERR stopped".to_owned());
        }
        *patience -= 1;
        Interrupt::Continue
    }

    fn random(&mut self) -> u32 {
        0
    }

    fn now_us(&mut self) -> u64 {
        1_500_000
    }
}

/// Bytes of each state of [`machine`].
pub(crate) const MEMORY_BYTES_MAX: usize = 32 * 1024 * 1024;

/// A machine that may take little.
pub(crate) fn machine() -> Machine {
    Machine::new(Limits { memory_bytes_max: MEMORY_BYTES_MAX })
}

/// Evaluates a script and answers the reply's bytes, or the error of the compiler.
pub(crate) fn evaluated(machine: &mut Machine, world: &mut World, body: &[u8], client: Resp) -> Vec<u8> {
    match machine.load_script(body, false) {
        Ok(sha) => {
            let mut out = Vec::new();
            let invocation =
                Invocation { keys: &[b"k1", b"k2"], args: &[b"a1", b"a2"], client, ..Invocation::default() };
            machine.run_script(&sha, &invocation, world, &mut out).expect("it was loaded just now");
            out
        }
        Err(text) => format!("-{text}\r\n").into_bytes(),
    }
}

/// The same as text.
pub(crate) fn eval(machine: &mut Machine, world: &mut World, body: &str) -> String {
    String::from_utf8_lossy(&evaluated(machine, world, body.as_bytes(), Resp::Two)).into_owned()
}
