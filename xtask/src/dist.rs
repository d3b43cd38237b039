//! `cargo xtask dist`: the Debian package, by cargo-deb. What isn't in the repository as it is (manual pages, completions, the list of
//! changes in Debian's form) is laid out below `target/dist` first; the rest stands in `smtp-guard/Cargo.toml`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::{build, root, setup, step, target};

/// Where completions are looked for, below `/usr/share`, by shell.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/smtp-guard"),
    ("zsh", "zsh/vendor-completions/_smtp-guard"),
    ("fish", "fish/vendor_completions.d/smtp-guard.fish"),
];

/// A package that was made.
pub(crate) struct Package {
    pub(crate) deb: PathBuf,
    /// The debug symbols, apart.
    pub(crate) symbols: Option<PathBuf>,
}

/// Builds the release and packs it; lintian has nothing to object to. Prints what was made.
pub(crate) fn dist() -> anyhow::Result<()> {
    let guard = build::build(true)?;
    setup::dist()?;
    let package = package(&guard, &Form { folder: target(), revision: "1", symbols: true })?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--no-cfg", "--profile", "debian", "--fail-on", "error,warning"]).arg(&package.deb);
    step::run("lintian", "judging the package by lintian", &mut lintian)?;
    for file in [Some(&package.deb), package.symbols.as_ref()].into_iter().flatten() {
        println!("{} ({:.1} MB)", file.display(), fs::metadata(file)?.len() as f64 / 1e6);
    }
    Ok(())
}

/// The form of a package, and how it is made.
pub(crate) struct Form<'a> {
    /// Has the binary in `release`, as cargo's own folder does.
    pub(crate) folder: PathBuf,
    /// The Debian revision.
    pub(crate) revision: &'a str,
    /// Debug symbols in a package of their own, and the best compression; without it the package is made quickly.
    pub(crate) symbols: bool,
}

/// A package with a guard that the tests have built, in `folder`. Installing it is what is tested, not its size.
pub(crate) fn quick(guard: &Path, folder: &Path, revision: &str) -> anyhow::Result<PathBuf> {
    let binary = folder.join("release/smtp-guard");
    fs::create_dir_all(folder.join("release")).with_context(|| format!("cannot create {}", folder.display()))?;
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&binary).arg(guard);
    if !strip.status().context("cannot start strip; it is in the package binutils")?.success() {
        bail!("strip failed for {}", guard.display());
    }
    Ok(package(guard, &Form { folder: folder.to_owned(), revision, symbols: false })?.deb)
}

fn package(guard: &Path, form: &Form<'_>) -> anyhow::Result<Package> {
    stage(guard)?;
    let output = form.folder.join("debian");
    if output.exists() {
        fs::remove_dir_all(&output).with_context(|| format!("cannot remove {}", output.display()))?;
    }
    let mut command = Command::new(setup::deb_path());
    command
        .current_dir(root())
        .env("CARGO_TARGET_DIR", &form.folder)
        .args(["--locked", "--no-build", "--package", "smtp-guard", "--deb-revision", form.revision, "--output"])
        .arg(&output);
    if form.symbols {
        command.arg("--dbgsym")
    } else {
        command.args(["--fast", "--no-dbgsym", "--no-strip"])
    };
    step::run("deb", "making the Debian package", &mut command)?;
    let made = |end: &str| -> anyhow::Result<Option<PathBuf>> {
        let files = fs::read_dir(&output)?.map(|entry| entry.map(|entry| entry.path()));
        let mut found = files.collect::<Result<Vec<_>, _>>()?.into_iter();
        Ok(found.find(|path| path.extension().is_some_and(|extension| extension == end)))
    };
    Ok(Package { deb: made("deb")?.context("cargo-deb made no package")?, symbols: made("ddeb")? })
}

/// Lays out what comes from the program, and the documents, as below `/usr/share`.
fn stage(guard: &Path) -> anyhow::Result<()> {
    let dist = target().join("dist");
    let stage = dist.join("stage");
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("cannot remove {}", stage.display()))?;
    }
    let pages = dist.join("man");
    if pages.exists() {
        fs::remove_dir_all(&pages).with_context(|| format!("cannot remove {}", pages.display()))?;
    }
    fs::create_dir_all(&pages)?;
    said(guard, &["man", &pages.to_string_lossy()])?;
    for page in files(&pages)? {
        let section = page.extension().unwrap_or_default().to_string_lossy().into_owned();
        let folder = stage.join(format!("man/man{section}"));
        fs::create_dir_all(&folder)?;
        compress(&page, &folder.join(format!("{}.gz", page.file_name().unwrap_or_default().display())))?;
    }
    for (shell, place) in COMPLETIONS {
        write(&stage.join(place), &said(guard, &["completions", shell])?)?;
    }
    let documents = stage.join("doc/smtp-guard");
    fs::create_dir_all(&documents)?;
    compress(&root().join("CHANGELOG.md"), &documents.join("NEWS.gz"))?;
    for page in files(&root().join("docs"))?.into_iter().filter(|page| page.extension().is_some_and(|end| end == "md"))
    {
        compress(&page, &documents.join(format!("{}.gz", page.file_name().unwrap_or_default().display())))?;
    }
    write(&dist.join("changelog"), changelog()?.as_bytes())
}

/// The list of changes in Debian's form; what has changed stands in CHANGELOG.md. Of the time of the last commit, so that the same tree
/// gives the same package.
fn changelog() -> anyhow::Result<String> {
    let time = Command::new("git").current_dir(root()).args(["log", "-1", "--format=%cD"]).output();
    let time = time.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    let time = time.and_then(|text| String::from_utf8(text).ok()).map(|text| text.trim().to_owned());
    let time = time.unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 +0000".to_owned());
    let version = env!("CARGO_PKG_VERSION");
    Ok(format!(
        "smtp-guard ({version}-1) unstable; urgency=medium\n\n  * What has changed is told in NEWS.gz.\n\n \
         -- The smtp-guard developers <developers@smtp-guard.example>  {time}\n"
    ))
}

/// What the guard answers to `arguments`.
fn said(guard: &Path, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
    let output = Command::new(guard)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", guard.display()))?;
    if !output.status.success() {
        bail!("smtp-guard {} failed: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// Without name and time in it, so that the same text gives the same file.
fn compress(from: &Path, to: &Path) -> anyhow::Result<()> {
    let file = File::create(to).with_context(|| format!("cannot write {}", to.display()))?;
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "-n", "-c"]).arg(from).stdout(file);
    if !gzip.status().context("cannot start gzip")?.success() {
        bail!("gzip failed for {}", from.display());
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut found: Vec<_> = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    found.sort_unstable();
    Ok(found)
}
