//! The first line of a script: `#!lua flags=no-writes`, and of a library: `#!lua name=mylib`.

/// What a script or a function says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScriptFlags {
    /// `no-writes`: it changes nothing, and is kept to that.
    pub no_writes: bool,
    /// `allow-oom`: it may start when memory is short. So may one that writes nothing.
    pub allow_oom: bool,
    /// `allow-stale`: it may run where the data may be old.
    pub allow_stale: bool,
    /// `no-cluster`: it refuses to run in a cluster.
    pub no_cluster: bool,
    /// `allow-cross-slot-keys`: its keys may lie anywhere.
    pub allow_cross_slot_keys: bool,
    /// No flags were given at all, as scripts before Redis 7: what it does is judged call by call.
    pub unspecified: bool,
}

impl ScriptFlags {
    /// A script without a first line of its own.
    pub const UNSPECIFIED: ScriptFlags = ScriptFlags {
        no_writes: false,
        allow_oom: false,
        allow_stale: false,
        no_cluster: false,
        allow_cross_slot_keys: false,
        unspecified: true,
    };

    /// Switches the flag on. Whether there is such a flag.
    pub(crate) fn set(&mut self, name: &[u8]) -> bool {
        let flag = match name {
            b"no-writes" => &mut self.no_writes,
            b"allow-oom" => &mut self.allow_oom,
            b"allow-stale" => &mut self.allow_stale,
            b"no-cluster" => &mut self.no_cluster,
            b"allow-cross-slot-keys" => &mut self.allow_cross_slot_keys,
            _ => return false,
        };
        *flag = true;
        true
    }

    /// The names of the flags that are on.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        [
            (self.no_writes, "no-writes"),
            (self.allow_oom, "allow-oom"),
            (self.allow_stale, "allow-stale"),
            (self.no_cluster, "no-cluster"),
            (self.allow_cross_slot_keys, "allow-cross-slot-keys"),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
    }
}

/// A script's flags and where its program begins. The line end stays, so that lines keep their numbers.
pub(crate) fn of_script(body: &[u8]) -> Result<(ScriptFlags, usize), String> {
    if !body.starts_with(b"#!") {
        return Ok((ScriptFlags::UNSPECIFIED, 0));
    }
    let Some(end) = body.iter().position(|byte| *byte == b'\n') else {
        return Err("ERR Invalid script shebang".to_owned());
    };
    let mut words = words(&body[2..end]).ok_or("ERR Invalid engine in script shebang")?.into_iter();
    let engine = words.next().unwrap_or_default();
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(format!("ERR Could not find scripting engine '{}'", text(&engine)));
    }
    let mut flags = ScriptFlags::default();
    for word in words {
        let Some(list) = word.strip_prefix(b"flags=") else {
            return Err(format!("ERR Unknown lua shebang option: {}", text(&word)));
        };
        for flag in list.split(|byte| *byte == b',').filter(|flag| !flag.is_empty()) {
            if !flags.set(flag) {
                return Err(format!("ERR Unexpected flag in script shebang: {}", text(flag)));
            }
        }
    }
    Ok((flags, end))
}

/// A library's name and where its program begins.
pub(crate) fn of_library(code: &[u8]) -> Result<(String, usize), String> {
    if !code.starts_with(b"#!") {
        return Err("ERR Missing library metadata".to_owned());
    }
    let Some(end) = code.iter().position(|byte| *byte == b'\n') else {
        return Err("ERR Invalid library metadata".to_owned());
    };
    let mut words = words(&code[2..end]).ok_or("ERR Invalid library metadata")?.into_iter();
    let has_engine = code.get(2).is_some_and(|byte| !byte.is_ascii_whitespace());
    let engine = if has_engine { words.next().unwrap_or_default() } else { Vec::new() };
    let mut name = None;
    for word in words {
        let Some(given) = word.strip_prefix(b"name=") else {
            return Err(format!("ERR Invalid metadata value given: {}", text(&word)));
        };
        if name.replace(given.to_vec()).is_some() {
            return Err("ERR Invalid metadata value, name argument was given multiple times".to_owned());
        }
    }
    let name = name.ok_or("ERR Library name was not given")?;
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(format!("ERR Engine '{}' not found", text(&engine)));
    }
    if !is_name(&name) {
        return Err(wrong_name("Library"));
    }
    Ok((text(&name), end))
}

/// Whether a library or a function may be called so.
pub(crate) fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
}

/// The error of a name that is none.
pub(crate) fn wrong_name(of: &str) -> String {
    format!(
        "ERR {of} names can only contain letters, numbers, or underscores(_) and must be at least one character long"
    )
}

/// The words of a line; quotes may hold spaces. `None` if a quote is not closed.
fn words(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut rest = line.iter().copied().peekable();
    loop {
        while rest.next_if(|byte| byte.is_ascii_whitespace()).is_some() {}
        if rest.peek().is_none() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(byte) = rest.next_if(|byte| !byte.is_ascii_whitespace()) {
            if byte != b'"' && byte != b'\'' {
                word.push(byte);
                continue;
            }
            loop {
                match rest.next()? {
                    closing if closing == byte => break,
                    inside => word.push(inside),
                }
            }
        }
        words.push(word);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_and_the_line_end_stays() {
        let (flags, start) = of_script(b"#!lua flags=no-writes,allow-oom\nreturn 1").unwrap();
        assert_eq!(flags.names().collect::<Vec<_>>(), ["no-writes", "allow-oom"]);
        assert_eq!(start, 31);
        assert_eq!(of_script(b"return 1").unwrap(), (ScriptFlags::UNSPECIFIED, 0));
        assert!(!of_script(b"#!lua\n").unwrap().0.unspecified);
    }

    #[test]
    fn wrong_first_lines_say_what_is_wrong() {
        for (body, error) in [
            ("#!lua", "ERR Invalid script shebang"),
            ("#!lua flags=foo\n", "ERR Unexpected flag in script shebang: foo"),
            ("#!lua foo=1\n", "ERR Unknown lua shebang option: foo=1"),
            ("#!python\n", "ERR Could not find scripting engine 'python'"),
            ("#!\n", "ERR Could not find scripting engine ''"),
            ("#!lua \"x\n", "ERR Invalid engine in script shebang"),
        ] {
            assert_eq!(of_script(body.as_bytes()), Err(error.to_owned()));
        }
        let name = "ERR Library names can only contain letters, numbers, or underscores(_) and must be at least one character long";
        for (code, error) in [
            ("return 1", "ERR Missing library metadata"),
            ("#!lua name=x", "ERR Invalid library metadata"),
            ("#!lua\n", "ERR Library name was not given"),
            ("#!lua name=a-b\n", name),
            ("#!lua name=\n", name),
            ("#!foo name=x\n", "ERR Engine 'foo' not found"),
            ("#!lua foo=x name=a\n", "ERR Invalid metadata value given: foo=x"),
            ("#!lua name=x name=y\n", "ERR Invalid metadata value, name argument was given multiple times"),
        ] {
            assert_eq!(of_library(code.as_bytes()), Err(error.to_owned()));
        }
    }
}
