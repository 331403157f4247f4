//! The search, breadth first. A state is reached again by the letters that led to it.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::key::{Merging, key};
use super::letter::Letter;
use super::scene::Scene;
use super::world::World;
use super::{Counts, Failure, Found, Violation};

/// A state: the one before it, and the letter between.
#[derive(Clone, Copy)]
struct Node {
    parent: usize,
    letter: Option<Letter>,
}

fn path(nodes: &[Node], mut at: usize) -> Vec<Letter> {
    let mut letters = Vec::new();
    while let Some(letter) = nodes[at].letter {
        letters.push(letter);
        at = nodes[at].parent;
    }
    letters.reverse();
    letters
}

fn replay<'s>(scene: &'s Scene, path: &[Letter]) -> Result<World<'s>, Failure> {
    let mut world = World::new(scene)?;
    world.is_judged = false;
    path.iter().try_for_each(|letter| world.apply(*letter))?;
    world.is_judged = true;
    Ok(world)
}

/// Walks all states of this configuration, `depth` letters deep at most.
///
/// # Errors
/// The first path that breaks a rule. There is no shorter one in this configuration.
pub fn walk(scene: &Scene, depth: usize, merging: Merging) -> Result<Found, Violation> {
    let mut nodes = vec![Node {
        parent: 0,
        letter: None,
    }];
    let mut seen = HashSet::new();
    let mut frontier = vec![0];
    let mut found = Found {
        name: scene.name.clone(),
        states: 1,
        ..Found::default()
    };
    while !frontier.is_empty() && found.depth < depth {
        let mut next = Vec::new();
        for &at in &frontier {
            let before = path(&nodes, at);
            let reach = || replay(scene, &before);
            let world = caught(reach).map_err(|failure| violation(scene, &before, failure))?;
            let (letters, counted) = (world.letters(), world.counts.clone());
            for letter in letters {
                let step = || {
                    let mut world = replay(scene, &before)?;
                    world.apply(letter)?;
                    let key = world
                        .closed
                        .is_none()
                        .then(|| key(&mut world, letter, merging));
                    Ok((key, world.counts))
                };
                let (key, counts) = caught(step).map_err(|failure| {
                    let path: Vec<_> = before.iter().copied().chain([letter]).collect();
                    violation(scene, &path, failure)
                })?;
                found.edges += 1;
                found.counts.add_difference(&counts, &counted);
                match key {
                    None => found.ends += 1,
                    Some(key) if seen.insert(key) => {
                        found.states += 1;
                        nodes.push(Node {
                            parent: at,
                            letter: Some(letter),
                        });
                        next.push(nodes.len() - 1);
                    }
                    Some(_) => {}
                }
            }
        }
        found.depth += 1;
        frontier = next;
    }
    found.is_exhausted = frontier.is_empty();
    Ok(found)
}

/// A panic of the engine has a path too.
fn caught<T>(step: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(step)).unwrap_or_else(|_| {
        Err(Failure {
            kind: "a panic",
            what: "its words are on standard error".into(),
        })
    })
}

fn violation(scene: &Scene, path: &[Letter], failure: Failure) -> Violation {
    let mut log = String::new();
    if failure.kind != "a panic"
        && let Ok(mut world) = World::new(scene)
    {
        world.write_log();
        for letter in path {
            if world.apply(*letter).is_err() {
                break;
            }
        }
        log = world.log();
    }
    let mut words = String::new();
    for letter in path {
        let _ = write!(words, " {letter}");
    }
    Violation {
        scene: scene.name.clone(),
        path: words,
        kind: failure.kind,
        what: failure.what,
        log,
    }
}

impl Counts {
    fn add_difference(&mut self, all: &Self, before: &Self) {
        for (name, n) in &all.0 {
            let n = n - before.0.get(name).copied().unwrap_or_default();
            *self.0.entry(name).or_default() += n;
        }
    }
}
