//! The 21 categories of commands, in the order of `ACL CAT`, and sets of them.
//!
//! It refuses to know which command is in which category: the command table says so.

/// A category of commands, as in `+@read`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each is what `ACL CAT` calls it")]
pub enum Category {
    Keyspace,
    Read,
    Write,
    Set,
    Sortedset,
    List,
    Hash,
    String,
    Bitmap,
    Hyperloglog,
    Geo,
    Stream,
    Pubsub,
    Admin,
    Fast,
    Slow,
    Blocking,
    Dangerous,
    Connection,
    Transaction,
    Scripting,
}

impl Category {
    /// All of them, as `ACL CAT` lists them.
    pub const ALL: [Category; 21] = [
        Category::Keyspace,
        Category::Read,
        Category::Write,
        Category::Set,
        Category::Sortedset,
        Category::List,
        Category::Hash,
        Category::String,
        Category::Bitmap,
        Category::Hyperloglog,
        Category::Geo,
        Category::Stream,
        Category::Pubsub,
        Category::Admin,
        Category::Fast,
        Category::Slow,
        Category::Blocking,
        Category::Dangerous,
        Category::Connection,
        Category::Transaction,
        Category::Scripting,
    ];

    /// Its name in rules, lower case, without the `@`.
    pub const fn name(self) -> &'static str {
        match self {
            Category::Keyspace => "keyspace",
            Category::Read => "read",
            Category::Write => "write",
            Category::Set => "set",
            Category::Sortedset => "sortedset",
            Category::List => "list",
            Category::Hash => "hash",
            Category::String => "string",
            Category::Bitmap => "bitmap",
            Category::Hyperloglog => "hyperloglog",
            Category::Geo => "geo",
            Category::Stream => "stream",
            Category::Pubsub => "pubsub",
            Category::Admin => "admin",
            Category::Fast => "fast",
            Category::Slow => "slow",
            Category::Blocking => "blocking",
            Category::Dangerous => "dangerous",
            Category::Connection => "connection",
            Category::Transaction => "transaction",
            Category::Scripting => "scripting",
        }
    }

    /// The category of this name, ASCII case ignored. `all` is a keyword of the rules, not a category.
    pub fn find(name: &[u8]) -> Option<Category> {
        Category::ALL.into_iter().find(|category| category.name().as_bytes().eq_ignore_ascii_case(name))
    }
}

/// A set of categories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CategorySet(u32);

impl CategorySet {
    /// No category.
    pub const EMPTY: CategorySet = CategorySet(0);

    /// Exactly these.
    pub const fn of(categories: &[Category]) -> CategorySet {
        let mut set = CategorySet::EMPTY;
        let mut index = 0;
        while index < categories.len() {
            set = set.with(categories[index]);
            index += 1;
        }
        set
    }

    /// This set and one more.
    pub const fn with(self, category: Category) -> CategorySet {
        CategorySet(self.0 | 1 << category as u32)
    }

    /// What is in either.
    pub const fn union(self, other: CategorySet) -> CategorySet {
        CategorySet(self.0 | other.0)
    }

    /// Adds one.
    pub const fn insert(&mut self, category: Category) {
        *self = self.with(category);
    }

    /// Whether it is in the set.
    pub const fn contains(self, category: Category) -> bool {
        self.0 & 1 << category as u32 != 0
    }

    /// Whether there is nothing in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// What is in it, in the order of `ACL CAT`.
    pub fn iter(self) -> impl Iterator<Item = Category> {
        Category::ALL.into_iter().filter(move |category| self.contains(*category))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_acl_cat() {
        let names: Vec<&str> = Category::ALL.iter().map(|category| category.name()).collect();
        let expected = "keyspace read write set sortedset list hash string bitmap hyperloglog geo stream pubsub admin \
            fast slow blocking dangerous connection transaction scripting";
        assert_eq!(names.join(" "), expected);
    }

    #[test]
    fn a_set_holds_what_was_put_in() {
        let set = CategorySet::of(&[Category::Scripting, Category::Keyspace]);
        assert_eq!(set.iter().collect::<Vec<_>>(), [Category::Keyspace, Category::Scripting]);
        assert!(!set.contains(Category::Read));
        assert!(CategorySet::EMPTY.is_empty());
    }

    #[test]
    fn names_are_found_in_any_case_and_all_is_none_of_them() {
        assert_eq!(Category::find(b"SortedSet"), Some(Category::Sortedset));
        assert_eq!(Category::find(b"all"), None);
        assert_eq!(Category::find(b""), None);
    }
}
