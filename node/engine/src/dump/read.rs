//! Files and payloads read record by record. It trusts no byte and knows no disk: what is wrong is told with the place
//! where it was found.

use super::source::{Reader, Source, Unpacking};
use super::{
    Checksum, EPOCH_FIELD, IMPORT_FIELD, LIBRARY_FIELD, POSITION_FIELD, Problem, SPACE_FIELD, is_known, kind, opcode,
    values,
};
use crate::dict::{NewValue, ValueRef};
use crate::keyspace::{SpaceId, TenantId, UnixMillis};
use crate::types::{Limits, Value};
use std::fmt;

/// One key of a file.
#[derive(Debug)]
pub struct Record {
    /// Whose, and in which database.
    pub space: SpaceId,
    /// The key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: NewValue<'static, Value>,
    /// Its expiry.
    pub expires_at: Option<UnixMillis>,
}

impl Record {
    /// The value as `DUMP` would answer it.
    pub fn payload(&self) -> Vec<u8> {
        match &self.value {
            NewValue::Int(number) => super::payload(&ValueRef::Int(*number)),
            NewValue::Str(bytes) => super::payload(&ValueRef::Str(bytes)),
            NewValue::Bytes(bytes) => super::payload(&ValueRef::Str(bytes)),
            NewValue::Object(object) => super::payload(&ValueRef::Object(object)),
        }
    }
}

/// What a file held besides keys, and is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// Notes that modules left.
    pub module_notes: u64,
    /// Collections without elements.
    pub empty: u64,
}

/// Why a file cannot be read, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    /// The byte at which the record begins that cannot be read.
    pub offset: u64,
    /// Its key, if that was read.
    pub key: Option<Vec<u8>>,
    /// What is wrong.
    pub problem: Problem,
}

impl FileError {
    /// Whether the file is what it should be, and this server cannot use it.
    pub fn is_refusal(&self) -> bool {
        matches!(self.problem, Problem::Unsupported(_) | Problem::UnknownType(_) | Problem::Version(_))
    }
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KEY_BYTES_SHOWN: usize = 128;
        write!(f, "at byte {}", self.offset)?;
        if let Some(key) = &self.key {
            let shown = &key[..key.len().min(KEY_BYTES_SHOWN)];
            write!(f, ", key '{}'", shown.escape_ascii())?;
        }
        write!(f, ": {}", self.problem)
    }
}

impl std::error::Error for FileError {}

/// What the next opcode or type announces for the key behind it.
#[derive(Default)]
struct Announced {
    expires_at: Option<UnixMillis>,
}

/// The keys of a tenant that stand within one AUX field.
struct Inner {
    space: SpaceId,
    bytes: Vec<u8>,
    at: usize,
}

/// What one step of reading found.
enum Step {
    Key(Record),
    /// Something that is no key.
    Other,
    End,
}

/// Reads a file.
pub struct FileReader<'l, S> {
    reader: Reader<S>,
    limits: &'l Limits,
    space: SpaceId,
    inner: Option<Inner>,
    skipped: Skipped,
    libraries: Vec<Vec<u8>>,
    import_notes: Vec<Vec<u8>>,
    epoch: u64,
    position: u64,
    version: u32,
    done: bool,
}

impl<'l, S: Source> FileReader<'l, S> {
    /// Reads the head of a file. `limits` decide in which form values are kept.
    pub fn open(source: S, limits: &'l Limits) -> Result<FileReader<'l, S>, FileError> {
        let mut reader = Reader::summing(source);
        let version = head(&mut reader).map_err(|problem| FileError { offset: 0, key: None, problem })?;
        let (space, skipped) = (SpaceId::default(), Skipped::default());
        let (libraries, import_notes) = (Vec::new(), Vec::new());
        Ok(FileReader {
            reader,
            limits,
            space,
            inner: None,
            skipped,
            libraries,
            import_notes,
            epoch: 0,
            position: 0,
            version,
            done: false,
        })
    }

    /// The next key. `None`: the file ends here as it should, and its checksum fits.
    #[allow(clippy::should_implement_trait)] // An iterator would go on behind an error.
    pub fn next(&mut self) -> Result<Option<Record>, FileError> {
        loop {
            let offset = self.reader.offset();
            let mut key = None;
            let step = match self.inner.as_mut().filter(|inner| inner.at < inner.bytes.len()) {
                Some(inner) => next_inner(inner, self.version, self.limits, &mut key),
                None => self.step(&mut key),
            };
            match step {
                Ok(Step::Key(record)) => return Ok(Some(record)),
                Ok(Step::Other) => {}
                Ok(Step::End) => return Ok(None),
                Err(Problem::Empty) => self.skipped.empty += 1,
                Err(problem) => return Err(FileError { offset, key, problem }),
            }
        }
    }

    /// What was met so far and is not kept.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Takes what is known of an import, as far as it was met.
    pub fn take_import_notes(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.import_notes)
    }

    /// Takes the texts of the libraries of functions that were met so far.
    pub fn take_libraries(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.libraries)
    }

    /// Where in the stream of effects the file was made, epoch and position, as far as it was read; zeros if it does not say.
    pub fn stand(&self) -> (u64, u64) {
        (self.epoch, self.position)
    }

    /// The version of the file.
    pub fn version(&self) -> u32 {
        self.version
    }

    fn step(&mut self, key: &mut Option<Vec<u8>>) -> Result<Step, Problem> {
        if self.done {
            return Ok(Step::End);
        }
        let reader = &mut self.reader;
        let mut announced = Announced::default();
        let mut byte = reader.byte()?;
        while let Some(next) = announcement(reader, byte, &mut announced)? {
            byte = next;
        }
        match byte {
            opcode::EOF => {
                self.finish()?;
                return Ok(Step::End);
            }
            opcode::SELECT => {
                let database = u32::try_from(reader.length()?).map_err(|_| Problem::Malformed("a database number"))?;
                self.space = SpaceId { tenant: TenantId::SHARED, database };
            }
            opcode::RESIZE => {
                reader.length()?;
                reader.length()?;
            }
            opcode::SLOT_INFO => {
                reader.length()?;
                reader.length()?;
                reader.length()?;
            }
            opcode::AUX => {
                let name = reader.string()?;
                let value = reader.string()?;
                let number = || std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
                if name == EPOCH_FIELD.as_bytes() {
                    self.epoch = number();
                } else if name == POSITION_FIELD.as_bytes() {
                    self.position = number();
                } else if name == LIBRARY_FIELD {
                    self.libraries.push(value);
                } else if name == IMPORT_FIELD {
                    self.import_notes.push(value);
                } else if name == SPACE_FIELD {
                    self.inner = Some(inner(value)?);
                }
            }
            opcode::FUNCTION => {
                let code = reader.string()?;
                self.libraries.push(code);
            }
            opcode::MODULE_AUX => {
                skip_module_note(reader)?;
                self.skipped.module_notes += 1;
            }
            kind => {
                let form = Form { kind, version: self.version, limits: self.limits };
                return key_of(reader, form, announced, self.space, key).map(Step::Key);
            }
        }
        Ok(Step::Other)
    }

    /// Reads the checksum and looks that nothing follows.
    fn finish(&mut self) -> Result<(), Problem> {
        const CHECKSUM_SINCE: u32 = 5;
        self.done = true;
        if self.version < CHECKSUM_SINCE {
            return Ok(());
        }
        let computed = self.reader.checksum().unwrap_or_default().value();
        let stored = u64::from_le_bytes(self.reader.array()?);
        // Zero means that the writer was told to make none.
        if stored == 0 || stored == computed { Ok(()) } else { Err(Problem::Checksum) }
    }
}

fn head<S: Source>(reader: &mut Reader<S>) -> Result<u32, Problem> {
    let head: [u8; 9] = reader.array().map_err(|problem| match problem {
        Problem::Truncated => Problem::NotRdb,
        other => other,
    })?;
    let digits = head.strip_prefix(b"REDIS").or_else(|| head.strip_prefix(b"VALKEY"));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok()).ok_or(Problem::NotRdb)?;
    let version = text.parse().map_err(|_| Problem::NotRdb)?;
    if is_known(version) { Ok(version) } else { Err(Problem::Version(version)) }
}

/// Takes in what is said about the next key, and returns the byte behind it; `None` if `byte` says nothing about a key.
fn announcement<S: Source>(reader: &mut Reader<S>, byte: u8, announced: &mut Announced) -> Result<Option<u8>, Problem> {
    match byte {
        opcode::EXPIRES_MS => announced.expires_at = Some(reader.milliseconds()?),
        opcode::EXPIRES_S => {
            let seconds = i32::from_le_bytes(reader.array()?);
            announced.expires_at = Some(i64::from(seconds) * 1000);
        }
        // When and how often a key was used is measured anew.
        opcode::IDLE => drop(reader.length()?),
        opcode::FREQUENCY => drop(reader.byte()?),
        _ => return Ok(None),
    }
    reader.byte().map(Some)
}

/// How the value of a record is to be read.
#[derive(Clone, Copy)]
struct Form<'l> {
    kind: u8,
    version: u32,
    limits: &'l Limits,
}

fn key_of<S: Source>(
    reader: &mut Reader<S>,
    form: Form<'_>,
    announced: Announced,
    space: SpaceId,
    met: &mut Option<Vec<u8>>,
) -> Result<Record, Problem> {
    if form.kind > kind::HASH_LISTPACK_EX {
        return Err(Problem::UnknownType(form.kind));
    }
    let key = reader.string()?;
    *met = Some(key.clone());
    let value = values::read(reader, form.kind, form.version, form.limits)?;
    Ok(Record { space, key, value, expires_at: announced.expires_at })
}

fn inner(bytes: Vec<u8>) -> Result<Inner, Problem> {
    let mut reader = Reader::new(bytes.as_slice());
    let mut number = || u32::try_from(reader.length()?).map_err(|_| Problem::Malformed("a keyspace number"));
    let space = SpaceId { tenant: TenantId(number()?), database: number()? };
    let at = reader.offset() as usize;
    Ok(Inner { space, bytes, at })
}

fn next_inner(inner: &mut Inner, version: u32, limits: &Limits, key: &mut Option<Vec<u8>>) -> Result<Step, Problem> {
    let mut reader = Reader::new(&inner.bytes[inner.at..]);
    let mut announced = Announced::default();
    let mut byte = reader.byte()?;
    while let Some(next) = announcement(&mut reader, byte, &mut announced)? {
        byte = next;
    }
    let form = Form { kind: byte, version, limits };
    let record = key_of(&mut reader, form, announced, inner.space, key);
    inner.at += reader.offset() as usize;
    record.map(Step::Key)
}

/// What a module wrote beside the keys: tagged parts up to an end mark, so that servers without it can step over.
fn skip_module_note<S: Source>(reader: &mut Reader<S>) -> Result<(), Problem> {
    reader.length()?;
    loop {
        match reader.length()? {
            0 => return Ok(()),
            1 | 2 => drop(reader.length()?),
            3 => drop(reader.array::<4>()?),
            4 => drop(reader.array::<8>()?),
            5 => drop(reader.string()?),
            _ => return Err(Problem::Malformed("a note of a module")),
        }
    }
}

/// What ends a payload: two bytes of version, eight of checksum.
const PAYLOAD_END_BYTES: usize = 10;

/// A payload of `DUMP` whose version and checksum are right.
pub struct Payload<'a> {
    kind: u8,
    version: u32,
    content: &'a [u8],
}

impl<'a> Payload<'a> {
    /// Checks the end of a payload: two bytes of version, eight of checksum.
    pub fn check(bytes: &'a [u8]) -> Result<Payload<'a>, Problem> {
        let (rest, checksum) = bytes.split_last_chunk::<8>().ok_or(Problem::Truncated)?;
        let (rest, version) = rest.split_last_chunk::<2>().ok_or(Problem::Truncated)?;
        let version = u32::from(u16::from_le_bytes(*version));
        if !is_known(version) {
            return Err(Problem::Version(version));
        }
        if Checksum::of(&bytes[..bytes.len() - 8]).value() != u64::from_le_bytes(*checksum) {
            return Err(Problem::Checksum);
        }
        let (kind, content) = rest.split_first().ok_or(Problem::Truncated)?;
        Ok(Payload { kind: *kind, version, content })
    }

    /// The value in it.
    pub fn value(&self, limits: &Limits, unpacking: Unpacking) -> Result<NewValue<'static, Value>, Problem> {
        let mut reader = Reader::within(self.content, unpacking);
        let value = values::read(&mut reader, self.kind, self.version, limits)?;
        if reader.left() == 0 { Ok(value) } else { Err(Problem::Malformed("a payload")) }
    }
}

/// The libraries in what `FUNCTION DUMP` answered.
pub fn read_libraries(bytes: &[u8]) -> Result<Vec<Vec<u8>>, Problem> {
    let mut codes = Vec::new();
    if bytes.len() == PAYLOAD_END_BYTES {
        // No library, and so no first byte that would be a type.
        let checksum = Checksum::of(&bytes[..2]).value().to_le_bytes();
        return if bytes[2..] == checksum { Ok(codes) } else { Err(Problem::Checksum) };
    }
    let checked = Payload::check(bytes)?;
    let mut kind = checked.kind;
    let mut reader = Reader::new(checked.content);
    loop {
        if kind != opcode::FUNCTION {
            return Err(Problem::Malformed("a payload of functions"));
        }
        codes.push(reader.string()?);
        if reader.left() == 0 {
            return Ok(codes);
        }
        kind = reader.byte()?;
    }
}

/// Reads a whole payload.
pub fn read_payload(bytes: &[u8], limits: &Limits) -> Result<NewValue<'static, Value>, Problem> {
    Payload::check(bytes)?.value(limits, Unpacking::UNBOUNDED)
}
