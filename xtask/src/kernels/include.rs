//! The headers a kernel is made of.

use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Every header of `folder` that `source` includes, directly or not, with its text.
pub(super) fn closure(source: &str, folder: &Path) -> Result<BTreeMap<PathBuf, String>> {
    let mut found = BTreeMap::new();
    let mut waiting = names(source);
    while let Some(name) = waiting.pop() {
        let path = folder.join(name);
        if found.contains_key(&path) || !path.exists() {
            continue;
        }
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        waiting.extend(names(&text));
        found.insert(path, text);
    }
    Ok(found)
}

fn names(text: &str) -> Vec<String> {
    let quoted = |line: &str| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("include")?;
        Some(rest.trim().trim_matches('"').to_owned())
    };
    text.lines().filter_map(quoted).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_headers_are_found_once_and_others_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.cuh"), "#pragma once\n#include \"b.cuh\"\n").unwrap();
        fs::write(folder.path().join("b.cuh"), "#  include \"a.cuh\"\nint b;\n").unwrap();
        let found = closure("#include \"a.cuh\"\n#include <vector>\n", folder.path()).unwrap();
        let names: Vec<_> = found.keys().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.cuh", "b.cuh"]);
    }
}
