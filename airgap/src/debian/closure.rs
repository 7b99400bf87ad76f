//! From wanted packages to everything they need.
//!
//! No solver: each dependency takes the newest version that will do, single dependencies are followed
//! before alternatives are looked at (so that an alternative which comes anyway is taken), and what
//! can't stand together is reported, not worked around. The builder then says what he means, in the
//! definition. The result depends on nothing but the indexes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kdc_profiles::definition::AssumeInstalled;

use super::{
    index::Package,
    relation::{self, Named, shown},
    version,
};

/// Virtual names, and who provides them in which version.
type Providers = BTreeMap<Box<str>, Vec<(usize, Option<Box<str>>)>>;

/// Every package of a set's archives.
pub(crate) struct Universe {
    packages: Vec<Package>,
    by_name: BTreeMap<Box<str>, Vec<usize>>,
    providers: Providers,
    machine: String,
}

impl Universe {
    pub(crate) fn new(packages: Vec<Package>, machine: &str) -> Result<Self, String> {
        let mut by_name: BTreeMap<Box<str>, Vec<usize>> = BTreeMap::new();
        for (place, package) in packages.iter().enumerate() {
            by_name.entry(package.name.clone()).or_default().push(place);
        }
        // Newest first. Of one version that is listed twice only the first counts, whatever the other
        // says of itself: nobody could ask for the other by name and version.
        for places in by_name.values_mut() {
            let compare = |left: usize, right: usize| {
                version::compare(&packages[left].version, &packages[right].version)
            };
            places.sort_by(|left, right| {
                let newer = compare(*right, *left);
                newer.then(packages[*left].archive.cmp(&packages[*right].archive))
            });
            places.dedup_by(|later, first| compare(*later, *first).is_eq());
        }
        let mut kept: Vec<usize> = by_name.values().flatten().copied().collect();
        kept.sort_unstable();
        let mut providers = Providers::new();
        for place in kept {
            let package = &packages[place];
            let Some(field) = &package.provides else { continue };
            let names = relation::parse(field).map_err(|what| told(package, &what))?;
            for named in names.into_iter().flatten() {
                let version = named.bound.map(|(_, version)| version.into());
                providers.entry(named.name.into()).or_default().push((place, version));
            }
        }
        Ok(Self { packages, by_name, providers, machine: machine.to_owned() })
    }

    /// Everything that `include` needs beside what is installed, sorted by name; or every problem.
    pub(crate) fn close(
        &self,
        include: &[String],
        installed: &AssumeInstalled,
    ) -> Result<Vec<&Package>, Vec<String>> {
        let present = self.present(installed);
        let mut chooser = Chooser::new(self, &present);
        let mut problems = Vec::new();
        for text in include {
            match relation::parse(text) {
                Ok(groups) => groups.into_iter().for_each(|group| chooser.want(group, None)),
                Err(what) => problems.push(format!("`include`: {what}")),
            }
        }
        chooser.run(&mut problems);
        chooser.find_conflicts(&mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        Ok(chooser.chosen.values().map(|(place, _)| &self.packages[*place]).collect())
    }

    /// What is there anyway, with what that depends on.
    fn present(&self, installed: &AssumeInstalled) -> BTreeSet<usize> {
        let nothing = BTreeSet::new();
        let mut chooser = Chooser::new(self, &nothing);
        for (name, places) in &self.by_name {
            let newest = &self.packages[places[0]];
            let by_priority = installed.priorities.iter().any(|one| **one == *newest.priority);
            if by_priority || installed.packages.iter().any(|one| **one == **name) {
                let named = Named { name: name.to_string(), machine: None, bound: None };
                chooser.want(vec![named], None);
            }
        }
        // What an installed system lacks of its own dependencies is not our concern.
        chooser.run(&mut Vec::new());
        chooser.chosen.values().map(|(place, _)| *place).collect()
    }

    /// Packages that will do for a name, best first.
    fn candidates<'u>(&'u self, named: &'u Named) -> Box<dyn Iterator<Item = usize> + 'u> {
        let foreign = named.machine.as_ref().is_some_and(|machine| {
            machine != "any" && machine != "native" && *machine != self.machine
        });
        if foreign {
            return Box::new(std::iter::empty());
        }
        let places = self.by_name.get(named.name.as_str()).into_iter().flatten().copied();
        let real = places.filter(|place| named.takes(&self.packages[*place].version));
        let providers = self.providers.get(named.name.as_str()).into_iter().flatten();
        let mut providers: Vec<usize> = providers
            .filter(|(_, version)| match (&named.bound, version) {
                (None, _) => true,
                (Some(_), Some(version)) => named.takes(version),
                (Some(_), None) => false,
            })
            .map(|(place, _)| *place)
            .collect();
        // Of two versions of one provider, the newer; of two providers, the more important.
        providers.sort_by_key(|place| {
            let package = &self.packages[*place];
            let rank = self.by_name[&package.name].iter().position(|other| other == place);
            (rank, importance(&package.priority), package.name.clone())
        });
        Box::new(real.chain(providers))
    }
}

fn importance(priority: &str) -> u8 {
    match priority {
        "required" => 0,
        "important" => 1,
        "standard" => 2,
        "optional" => 3,
        _ => 4,
    }
}

fn told(package: &Package, what: &str) -> String {
    format!("{} {}: {what}", package.name, package.version)
}

/// Makes the choice.
struct Chooser<'u> {
    universe: &'u Universe,
    present: &'u BTreeSet<usize>,
    /// By name: which one, and which other one asked for it.
    chosen: BTreeMap<&'u str, (usize, Option<usize>)>,
    plain: VecDeque<(Vec<Named>, Option<usize>)>,
    choices: VecDeque<(Vec<Named>, Option<usize>)>,
}

impl<'u> Chooser<'u> {
    fn new(universe: &'u Universe, present: &'u BTreeSet<usize>) -> Self {
        let (plain, choices) = (VecDeque::new(), VecDeque::new());
        Self { universe, present, chosen: BTreeMap::new(), plain, choices }
    }

    fn want(&mut self, group: Vec<Named>, by: Option<usize>) {
        let queue = if group.len() == 1 { &mut self.plain } else { &mut self.choices };
        queue.push_back((group, by));
    }

    fn run(&mut self, problems: &mut Vec<String>) {
        while let Some((group, by)) = self.plain.pop_front().or_else(|| self.choices.pop_front()) {
            // What the definition names is brought even where it is assumed to be there.
            let there = if by.is_none() { self.is_chosen(&group) } else { self.is_met(&group) };
            if !there {
                self.choose(&group, by, problems);
            }
        }
    }

    fn is_chosen(&self, group: &[Named]) -> bool {
        group.iter().any(|named| self.universe.candidates(named).any(|place| self.has(place)))
    }

    fn is_met(&self, group: &[Named]) -> bool {
        group.iter().any(|named| {
            self.universe
                .candidates(named)
                .any(|place| self.has(place) || self.present.contains(&place))
        })
    }

    fn has(&self, place: usize) -> bool {
        let name = &*self.universe.packages[place].name;
        self.chosen.get(name).is_some_and(|(chosen, _)| *chosen == place)
    }

    fn choose(&mut self, group: &[Named], by: Option<usize>, problems: &mut Vec<String>) {
        let universe = self.universe;
        let mut taken = None;
        for place in group.iter().flat_map(|named| universe.candidates(named)) {
            match self.chosen.get(&*universe.packages[place].name) {
                None => return self.take(place, by, problems),
                Some((other, other_by)) => taken = taken.or(Some((*other, *other_by))),
            }
        }
        let wanted = format!("{}{}", shown(group), self.chain(by));
        problems.push(match taken {
            Some((other, other_by)) => {
                let other = &universe.packages[other];
                let (name, version) = (&other.name, &other.version);
                let chain = self.chain(other_by);
                format!("{wanted} can't be had: {name} {version} comes already{chain}")
            }
            None => format!("{wanted}: no archive of the set has it{}", self.versions(group)),
        });
    }

    fn take(&mut self, place: usize, by: Option<usize>, problems: &mut Vec<String>) {
        let package = &self.universe.packages[place];
        self.chosen.insert(&package.name, (place, by));
        for field in [&package.pre_depends, &package.depends].into_iter().flatten() {
            match relation::parse(field) {
                Ok(groups) => groups.into_iter().for_each(|group| self.want(group, Some(place))),
                Err(what) => problems.push(told(package, &what)),
            }
        }
    }

    /// Who asked, and who asked for that: ` (for a) (for b)`.
    fn chain(&self, mut by: Option<usize>) -> String {
        let mut text = String::new();
        for _ in 0..8 {
            let Some(place) = by else { return text };
            let name = &*self.universe.packages[place].name;
            text.push_str(&format!(" (for {name}"));
            by = self.chosen.get(name).and_then(|(_, by)| *by);
            text.push(')');
        }
        text + " …"
    }

    /// The versions that there are, where there are others.
    fn versions(&self, group: &[Named]) -> String {
        let places =
            group.iter().filter_map(|named| self.universe.by_name.get(named.name.as_str()));
        let found: Vec<_> = places
            .flatten()
            .map(|place| &self.universe.packages[*place])
            .map(|package| format!("{} {}", package.name, package.version))
            .take(5)
            .collect();
        if found.is_empty() { String::new() } else { format!(" (there is {})", found.join(", ")) }
    }

    /// Packages that can't be installed together.
    fn find_conflicts(&self, problems: &mut Vec<String>) {
        for (place, _) in self.chosen.values() {
            let package = &self.universe.packages[*place];
            for (field, word) in
                [(&package.conflicts, "conflicts with"), (&package.breaks, "breaks")]
            {
                let Some(field) = field else { continue };
                match relation::parse(field) {
                    Ok(groups) => {
                        for named in groups.iter().flatten() {
                            self.find_conflict(*place, word, named, problems);
                        }
                    }
                    Err(what) => problems.push(told(package, &what)),
                }
            }
        }
    }

    fn find_conflict(&self, place: usize, word: &str, named: &Named, problems: &mut Vec<String>) {
        let package = &self.universe.packages[place];
        for other in self.universe.candidates(named) {
            let second = &self.universe.packages[other];
            // A package may conflict with what it provides itself: it wants to be the only one.
            if second.name == package.name {
                continue;
            }
            let assumed = self.present.contains(&other) && !self.chosen.contains_key(&*second.name);
            if !self.has(other) && !assumed {
                continue;
            }
            let (name, version) = (&package.name, &package.version);
            let origin = match self.chosen.get(&*second.name) {
                Some((_, by)) => self.chain(*by),
                None => ", which is assumed to be installed".to_owned(),
            };
            let own = self.chain(self.chosen[&**name].1);
            problems.push(format!("{name} {version}{own} {word} {}{origin}", second.name));
        }
    }
}

#[cfg(test)]
mod tests {
    use kdc_bundles::index::Digest;

    use super::*;

    /// `name version [field: relation]…`, one a line.
    fn universe(text: &str) -> Universe {
        let packages = text.lines().map(|line| {
            let mut parts = line.split(';').map(str::trim);
            let (name, version) = parts.next().unwrap().split_once(' ').unwrap();
            let mut package = Package {
                name: name.into(),
                version: version.into(),
                machine: "amd64".into(),
                priority: "optional".into(),
                file: "f".into(),
                size: 1,
                digest: Digest::of(name.as_bytes()),
                pre_depends: None,
                depends: None,
                provides: None,
                conflicts: None,
                breaks: None,
                archive: 0,
            };
            for part in parts {
                let (field, text) = part.split_once(": ").unwrap();
                let value = Some(text.into());
                match field {
                    "pre" => package.pre_depends = value,
                    "dep" => package.depends = value,
                    "pro" => package.provides = value,
                    "con" => package.conflicts = value,
                    "bre" => package.breaks = value,
                    "pri" => package.priority = text.into(),
                    other => panic!("{other}"),
                }
            }
            package
        });
        Universe::new(packages.collect(), "amd64").unwrap()
    }

    fn close(text: &str, include: &[&str], installed: &AssumeInstalled) -> Result<String, String> {
        let include: Vec<_> = include.iter().map(|one| (*one).to_owned()).collect();
        match universe(text).close(&include, installed) {
            Ok(found) => Ok(found
                .iter()
                .map(|package| format!("{} {}", package.name, package.version))
                .collect::<Vec<_>>()
                .join(", ")),
            Err(problems) => Err(problems.join("\n")),
        }
    }

    const SMALL: &str = "app 2; dep: lib (>= 1), tool | other; pre: base\n\
                         lib 1; dep: app\nlib 2; dep: app\ntool 1\nother 1\nbase 1; pri: required\n\
                         mta 1; pro: mail\nbig-mta 1; pro: mail; con: mail\nneeds-mail 1; dep: mail\n\
                         needs-other 1; dep: other\nold 1; dep: lib (<< 2)\nvirtual 1; pro: v (= 3)\n\
                         wants-v 1; dep: v (>= 2)\nwants-v4 1; dep: v (>= 4)\nlost 1; dep: nothing\n\
                         breaker 1; bre: tool (<< 2)\nforeign 1; dep: lib:i386\nnative 1; dep: lib:any";

    #[test]
    fn the_newest_versions_and_everything_they_need_are_chosen() {
        let none = AssumeInstalled::default();
        for (include, found) in [
            (&["app"][..], "app 2, base 1, lib 2, tool 1"),
            (&["lib (= 1)"], "app 2, base 1, lib 1, tool 1"),
            (&["app", "needs-other"], "app 2, base 1, lib 2, needs-other 1, other 1"),
            (&["needs-mail"], "big-mta 1, needs-mail 1"),
            (&["needs-mail", "mta"], "mta 1, needs-mail 1"),
            (&["wants-v"], "virtual 1, wants-v 1"),
            (&["native"], "app 2, base 1, lib 2, native 1, tool 1"),
        ] {
            assert_eq!(close(SMALL, include, &none).as_deref(), Ok(found), "{include:?}");
        }
    }

    #[test]
    fn what_is_installed_anyway_is_not_brought_unless_it_is_named() {
        let mut installed =
            AssumeInstalled { priorities: vec!["required".to_owned()], packages: Vec::new() };
        assert_eq!(close(SMALL, &["app"], &installed).as_deref(), Ok("app 2, lib 2, tool 1"));
        assert_eq!(close(SMALL, &["base"], &installed).as_deref(), Ok("base 1"));
        // And what it depends on is there too.
        installed.packages = vec!["lib".to_owned()];
        assert_eq!(close(SMALL, &["native"], &installed).as_deref(), Ok("native 1"));
    }

    #[test]
    fn every_problem_is_told_with_who_asked() {
        let none = AssumeInstalled::default();
        for (include, parts) in [
            (&["lost"][..], &["nothing (for lost): no archive"][..]),
            (&["wants-v4"], &["v (>= 4) (for wants-v4): no archive"]),
            (&["foreign"], &["lib (for foreign)"]),
            (&["app", "old"], &["lib 2", "lib (<< 2) (for old)"]),
            (&["mta", "big-mta"], &["big-mta 1 conflicts with mta"]),
            (&["app", "breaker"], &["breaker 1 breaks tool (for app)"]),
            (&["none", "lost"], &["none: no archive", "nothing (for lost)"]),
            (&["a b"], &["no relation"]),
            (&["app (>= 3)"], &["there is app 2"]),
        ] {
            let error = close(SMALL, include, &none).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{include:?}: {error}");
            }
        }
    }
}
