//! Libraries of functions: what FUNCTION LOAD brought.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::interpreter::{Program, Registration};
use crate::shebang::ScriptFlags;

/// A library.
#[derive(Debug, Clone)]
pub struct Library {
    /// Its name.
    pub name: String,
    /// Its text, first line included.
    pub code: Arc<[u8]>,
    /// Its functions, in the order of their names.
    pub functions: Vec<Function>,
}

/// A function of a library.
#[derive(Debug, Clone)]
pub struct Function {
    /// Its name. FCALL finds it in either case of letters.
    pub name: String,
    /// What it says of itself.
    pub flags: ScriptFlags,
    /// What it is for.
    pub description: Option<String>,
    pub(crate) program: Program,
}

/// What becomes of the libraries there are when others are restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RestorePolicy {
    /// They stay; a library of the same name is an error.
    #[default]
    Append,
    /// They go.
    Flush,
    /// They stay, but for those of the same name.
    Replace,
}

/// All libraries, and where each function is.
#[derive(Debug, Default, Clone)]
pub(crate) struct Libraries {
    libraries: BTreeMap<String, Arc<Library>>,
    /// A function's name in small letters, and its library's.
    functions: BTreeMap<String, String>,
}

impl Libraries {
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Library>> {
        self.libraries.values()
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.libraries.contains_key(name)
    }

    pub(crate) fn function_count(&self) -> usize {
        self.functions.len()
    }

    pub(crate) fn find(&self, name: &[u8]) -> Option<&Function> {
        let name = str::from_utf8(name).ok()?.to_ascii_lowercase();
        let library = self.libraries.get(self.functions.get(&name)?)?;
        library.functions.iter().find(|function| function.name.eq_ignore_ascii_case(&name))
    }

    pub(crate) fn remove(&mut self, name: &str) -> bool {
        let Some(library) = self.libraries.remove(name) else { return false };
        for function in &library.functions {
            self.functions.remove(&function.name.to_ascii_lowercase());
        }
        true
    }

    /// Adds a library whose name is free. Another library's function of the same name is an error.
    pub(crate) fn add(
        &mut self,
        name: &str,
        code: &[u8],
        registered: Vec<Registration>,
        reaches_tables: bool,
    ) -> Result<(), String> {
        let mut functions: Vec<Function> = registered
            .into_iter()
            .map(|new| Function {
                name: new.name,
                flags: new.flags,
                description: new.description,
                program: Program { function: new.callback, reaches_tables },
            })
            .collect();
        functions.sort_by(|left, right| left.name.cmp(&right.name));
        for function in &functions {
            if self.functions.contains_key(&function.name.to_ascii_lowercase()) {
                return Err(format!("ERR Function {} already exists", function.name));
            }
        }
        for function in &functions {
            self.functions.insert(function.name.to_ascii_lowercase(), name.to_owned());
        }
        let library = Library { name: name.to_owned(), code: code.into(), functions };
        self.libraries.insert(name.to_owned(), Arc::new(library));
        Ok(())
    }
}
