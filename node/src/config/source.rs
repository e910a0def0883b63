//! Where values come from: flags, environment and file, laid over each other. Knows the table of settings, but not what
//! any of them means.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::value::Value;
use super::{SETTINGS, Setting};

/// A configuration file is read whole; this is far more than all settings need.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// What was given on the command line: `--config` and one flag for each setting.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    file: Option<PathBuf>,
    values: BTreeMap<&'static str, String>,
}

impl clap::Args for Flags {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = clap::Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help("Configuration file (TOML); `keyward config default` prints one [env: KEYWARD_CONFIG]");
        SETTINGS.iter().fold(command.arg(file), |command, setting| {
            let default =
                if setting.default.is_empty() { String::new() } else { format!(" [default: {}]", setting.default) };
            let bounds = setting.bounds.map_or(String::new(), |(low, high)| format!(" [from {low} to {high}]"));
            let argument = clap::Arg::new(setting.key.as_str())
                .long(setting.key.as_str())
                .value_name("VALUE")
                .help_heading(setting.section)
                .allow_hyphen_values(true)
                .help(format!("{}{default}{bounds} [env: {}]", setting.help, setting.variable));
            command.arg(argument)
        })
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        let value =
            |setting: &'static Setting| Some((setting.key.as_str(), matches.get_one::<String>(&setting.key)?.clone()));
        Ok(Self { file: matches.get_one("config").cloned(), values: SETTINGS.iter().filter_map(value).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The text that won for each setting and where it came from, with the problems met so far.
pub(super) struct Given {
    winners: BTreeMap<&'static str, Winner>,
    /// Everything that was given could be read, if not understood.
    pub(super) complete: bool,
    pub(super) problems: Vec<String>,
}

struct Winner {
    text: String,
    origin: String,
}

impl Given {
    /// Lays file, environment and flags over each other, in this order.
    pub(super) fn collect(flags: &Flags, environment: &[(OsString, OsString)]) -> Self {
        let mut given = Self { winners: BTreeMap::new(), complete: true, problems: Vec::new() };
        let variable = |name: &str| environment.iter().find(|(key, _)| key == name).map(|(_, value)| value);
        let file = flags
            .file
            .clone()
            .or_else(|| variable("KEYWARD_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from));
        if let Some(file) = file {
            given.file(&file);
        }
        for setting in SETTINGS.iter() {
            match variable(&setting.variable).map(|value| value.to_str()) {
                Some(Some(text)) => given.set(setting, text.to_owned(), setting.variable.clone()),
                Some(None) => given.problems.push(format!("`{}` ({}) is not UTF-8", setting.key, setting.variable)),
                None => {}
            }
            if let Some(text) = flags.values.get(setting.key.as_str()) {
                given.set(setting, text.clone(), format!("--{}", setting.key));
            }
        }
        given
    }

    fn set(&mut self, setting: &'static Setting, text: String, origin: String) {
        self.winners.insert(&setting.key, Winner { text, origin });
    }

    fn file(&mut self, path: &Path) {
        let text = match read_text(path, FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(problem) => {
                self.complete = false;
                return self.problems.push(format!("configuration file {problem}"));
            }
        };
        let (table, errors) = DeTable::parse_recoverable(&text);
        let line_of = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
        self.complete &= errors.is_empty();
        for error in &errors {
            let line = error.span().map_or(1, |span| line_of(span.start));
            self.problems.push(format!("{}:{line}: {}", path.display(), error.message()));
        }
        for (key, value) in table.get_ref() {
            let place = format!("{}:{}", path.display(), line_of(key.span().start));
            let key = key.get_ref().as_ref();
            match (SETTINGS.iter().find(|setting| setting.key == key), plain_text(value.get_ref())) {
                (Some(setting), Some(text)) => self.set(setting, text, place),
                (Some(_), None) => {
                    self.problems.push(format!("{place}: `{key}` must be a text, a number or a list of texts"))
                }
                (None, _) => {
                    self.problems.push(format!("{place}: unknown key `{key}`; the nearest one is `{}`", nearest(key)))
                }
            }
        }
    }

    /// The value of one setting, its default if nobody gave one. What cannot be read is noted and stands at the default.
    pub(super) fn read<T: Value>(&mut self, field: &str, default: &str, bounds: &[(&str, &str)]) -> T {
        let key = field.replace('_', "-");
        if let Some(winner) = self.winners.get(key.as_str()) {
            match T::parse(&winner.text).and_then(|value| within(value, bounds)) {
                Ok(value) => return value,
                Err(problem) => self.problems.push(format!("`{key}` ({}) {problem}", winner.origin)),
            }
        }
        T::parse(default).expect("every default of the table can be read, which a test proves")
    }
}

fn within<T: Value>(value: T, bounds: &[(&str, &str)]) -> Result<T, String> {
    let size_of = |text| T::parse(text).ok().and_then(|bound| bound.magnitude());
    for (low, high) in bounds {
        let size = value.magnitude();
        if size.is_some() && (size < size_of(low) || size > size_of(high)) {
            return Err(format!("is {}, but must be from {low} to {high}", value.text()));
        }
    }
    Ok(value)
}

/// Scalars as their text, lists joined by commas; tables, dates and lists in lists are no value of any setting.
fn plain_text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().replace('_', "")),
        DeValue::Boolean(flag) => Some(flag.to_string()),
        DeValue::Array(items) if items.iter().all(|item| !item.get_ref().is_array()) => {
            items.iter().map(|item| plain_text(item.get_ref())).collect::<Option<Vec<_>>>().map(|items| items.join(","))
        }
        _ => None,
    }
}

/// Variables that say something to `keywardctl`, or where the file is.
const OTHER_VARIABLES: &[&str] =
    &["KEYWARD_CONFIG", "KEYWARD_ADDR", "KEYWARD_USER", "KEYWARD_PASSWORD", "KEYWARD_SOURCE_PASSWORD"];

/// A sentence for each variable that looks like a setting and is none. Values are not repeated: they may be secrets.
pub(super) fn unknown_variables(environment: &[(OsString, OsString)]) -> Vec<String> {
    let unknown = strangers(environment).filter(|(name, value)| !is_service_link(name, value));
    let said = unknown.map(|(name, _)| {
        let key = name.trim_start_matches("KEYWARD_");
        let nearest = nearest(key).to_ascii_uppercase().replace('-', "_");
        format!("{name} is no setting; the nearest one is KEYWARD_{nearest}")
    });
    said.collect()
}

/// The same for those that Kubernetes makes of services.
pub(super) fn service_links(environment: &[(OsString, OsString)]) -> Vec<String> {
    let links = strangers(environment).filter(|(name, value)| is_service_link(name, value));
    links.map(|(name, _)| format!("{name} tells of a service of Kubernetes, and is no setting")).collect()
}

fn strangers(environment: &[(OsString, OsString)]) -> impl Iterator<Item = (String, String)> {
    let texts = environment.iter().map(|(name, value)| (name.to_string_lossy(), value.to_string_lossy()));
    let ours = texts.filter(|(name, _)| name.starts_with("KEYWARD_") && !OTHER_VARIABLES.contains(&name.as_ref()));
    let strange = ours.filter(|(name, _)| SETTINGS.iter().all(|setting| setting.variable != *name));
    strange.map(|(name, value)| (name.into_owned(), value.into_owned()))
}

/// Whether Kubernetes says with it where a service is, whose name begins with `keyward`: `…_SERVICE_HOST`,
/// `…_SERVICE_PORT_REDIS`, `…_PORT=tcp://…`, `…_PORT_6379_TCP_ADDR`.
fn is_service_link(name: &str, value: &str) -> bool {
    let of_a_port = |rest: &str| {
        let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
        ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| rest.starts_with(protocol))
    };
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.ends_with("_PORT") && value.contains("://")
        || name.split("_PORT_").skip(1).any(of_a_port)
}

/// The setting a mistyped key most likely means.
fn nearest(key: &str) -> &'static str {
    let typed = key.to_ascii_lowercase().replace('_', "-");
    let best = SETTINGS.iter().min_by_key(|setting| (!setting.key.starts_with(&typed), edits(&typed, &setting.key)));
    best.map_or("", |setting| &setting.key)
}

/// Insertions, deletions and replacements that turn `from` into `to`.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // A key is a word; what is longer than any key is only compared by its beginning.
    for (line, left) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, right) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(left != *right);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

/// A text file of at most so many bytes. The error names the file.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> Result<String, String> {
    let name = path.display();
    let metadata = fs::metadata(path).map_err(|error| format!("{name} cannot be read: {error}"))?;
    if !metadata.is_file() {
        return Err(format!("{name} is not a file"));
    }
    if metadata.len() > bytes_max {
        return Err(format!("{name} has {} bytes, more than {bytes_max}", metadata.len()));
    }
    fs::read_to_string(path).map_err(|error| format!("{name} cannot be read: {error}"))
}
