//! smtp-sink, Postfix' own test server: strict, fast, and faulty in ways that one can choose.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::netns::{Host, World};
use crate::process::{Program, run, wait_for};

/// A running smtp-sink.
#[derive(Debug)]
pub struct Sink {
    program: Program,
    folder: tempfile::TempDir,
}

impl Sink {
    /// Starts it on `port` of the backend with the options that make it faulty.
    pub fn start(world: &World, port: u16, options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // It gives up root before it writes.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let mut command = world.on(Host::Backend, "smtp-sink");
        command.args(["-u", "nobody", "-R"]).arg(folder.path()).args(["-d", "mail."]).args(options);
        command.args([&format!("{}:{port}", World::BACKEND), "64"]);
        let program = Program::start(&mut command, folder.path().join("log"));
        let listens = || {
            let sockets = run(world.on(Host::Backend, "ss").args(["-Hltn", &format!("sport = :{port}")]), "");
            (!sockets.stdout.is_empty()).then_some(())
        };
        wait_for("smtp-sink", listens, || program.output());
        Self { program, folder }
    }

    /// Messages whose data it read to the end.
    pub fn messages(&self) -> usize {
        let whole = |path: &Path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            // It writes the reply it gave nowhere; a message that was cut off is removed again.
            name.starts_with("mail.") && fs::metadata(path).is_ok_and(|file| file.len() > 0)
        };
        fs::read_dir(self.folder.path()).unwrap().flatten().filter(|entry| whole(&entry.path())).count()
    }

    /// SIGKILL.
    pub fn kill9(&mut self) {
        self.program.kill9();
    }
}
