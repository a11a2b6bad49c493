//! What decides how a server reads a statement's text: the search path, and the settings that bear on names and constants.
//!
//! A server reads names and constants when it parses, so a prepared statement means the same only under the same settings.
//! Sessions under equal ones share one [`ParseScope`], which is therefore compared by its address.

use std::collections::HashSet;
use std::rc::Rc;

use super::search_path;
use crate::backend::settings::Settings;
use crate::catalog::SearchPath;

/// Beside `search_path`: those under which the same text gives other names, constants or operators.
const RELEVANT: [&str; 11] = [
    "array_nulls",
    "client_encoding",
    "datestyle",
    "intervalstyle",
    "lc_monetary",
    "role",
    "session_authorization",
    "standard_conforming_strings",
    "timezone",
    "transform_null_equals",
    "xmloption",
];

/// How many scopes nobody uses any more may stay before they are swept out.
const UNUSED: usize = 1024;

#[derive(Debug, PartialEq, Eq, Hash)]
pub struct ParseScope {
    pub search_path: SearchPath,
    /// Of `RELEVANT`, as far as they are set: as SQL.
    settings: Vec<(&'static str, Box<str>)>,
}

/// The settings of a session that its scope is made from.
pub struct Given<'a> {
    pub user: &'a str,
    /// The path of a fresh connection.
    pub server_search_path: Option<&'a str>,
    pub settings: &'a Settings,
    /// SET LOCAL, which goes before; an empty value is the default.
    pub local: &'a Settings,
}

/// All scopes in use, one of each.
#[derive(Debug, Default)]
pub struct ParseScopes {
    all: HashSet<Rc<ParseScope>>,
    swept: usize,
}

/// Whether SET LOCAL of this name is to be remembered for the transaction.
pub fn concerns(name: &str) -> bool {
    name == "search_path" || RELEVANT.contains(&name)
}

/// Whether the two differ in what bears on the meaning of statements.
pub fn differ(one: &Settings, other: &Settings) -> bool {
    let mut names = RELEVANT.into_iter().chain(["search_path"]);
    names.any(|name| one.get(name) != other.get(name))
}

impl Given<'_> {
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.local.get(name).or_else(|| self.settings.get(name))?;
        (!value.is_empty()).then_some(value)
    }

    /// Whom `"$user"` means.
    pub fn current_user(&self) -> Box<str> {
        let set = |name| {
            let named = search_path::effective(Some(self.get(name)?), None, self.user);
            named.into_iter().next().filter(|role| **role != *"none")
        };
        set("role")
            .or_else(|| set("session_authorization"))
            .unwrap_or_else(|| Box::from(self.user))
    }

    fn scope(&self) -> ParseScope {
        let path = self.get("search_path");
        let schemas = search_path::effective(path, self.server_search_path, &self.current_user());
        let settings = RELEVANT.into_iter().filter_map(|name| {
            let value = self.get(name)?;
            Some((name, Box::from(value)))
        });
        ParseScope {
            search_path: SearchPath(schemas.into()),
            settings: settings.collect(),
        }
    }
}

impl ParseScopes {
    /// The one copy of the scope that these settings make.
    pub fn of(&mut self, given: &Given<'_>) -> Rc<ParseScope> {
        let scope = given.scope();
        if let Some(known) = self.all.get(&scope) {
            return Rc::clone(known);
        }
        if self.all.len() >= self.swept + UNUSED {
            self.all.retain(|scope| Rc::strong_count(scope) > 1);
            self.swept = self.all.len();
        }
        let scope = Rc::new(scope);
        self.all.insert(Rc::clone(&scope));
        scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_the_user() {
        let schemas = |role: &str, local: &str| {
            let (mut settings, mut own) = (Settings::default(), Settings::default());
            settings.set("role", role);
            if !local.is_empty() {
                own.set("role", local);
            }
            let given = Given {
                user: "ann",
                server_search_path: None,
                settings: &settings,
                local: &own,
            };
            given.scope().search_path.0[0].to_string()
        };
        assert_eq!(schemas("", ""), "ann");
        assert_eq!(schemas("none", ""), "ann");
        assert_eq!(schemas("'Bob'", ""), "Bob");
        assert_eq!(schemas("BOB", ""), "bob");
        assert_eq!(schemas("'bob'", "\"Carl\""), "Carl");
    }

    #[test]
    fn equal_settings_are_one_scope() {
        let mut scopes = ParseScopes::default();
        let (mut settings, mut local) = (Settings::default(), Settings::default());
        settings.set("timezone", "'UTC'");
        settings.set("work_mem", "'1MB'");
        let mut of = |settings: &Settings, local: &Settings| {
            scopes.of(&Given {
                user: "ann",
                server_search_path: None,
                settings,
                local,
            })
        };
        let one = of(&settings, &local);
        settings.set("work_mem", "'2MB'");
        assert!(Rc::ptr_eq(&one, &of(&settings, &local)));
        local.set("timezone", "'CET'");
        assert!(!Rc::ptr_eq(&one, &of(&settings, &local)));
        local.set("timezone", "");
        let default = of(&settings, &local);
        assert!(!Rc::ptr_eq(&one, &default));
        assert!(Rc::ptr_eq(
            &default,
            &of(&Settings::default(), &Settings::default())
        ));
        local.set("search_path", "x");
        assert!(!Rc::ptr_eq(&default, &of(&Settings::default(), &local)));
        assert!(differ(&settings, &Settings::default()) && differ(&local, &Settings::default()));
        settings.reset("timezone");
        assert!(!differ(&settings, &Settings::default()));
    }
}
