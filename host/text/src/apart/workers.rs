//! This side: workers that are started when they are needed, reused, and replaced when they die.
use super::{Answer, Conversation, Task, frame, limits};
use crate::{Chat, TextError};
use std::{
    fmt, io,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

/// Workers for one model directory: at most one per processor.
pub(crate) struct Workers {
    command: Box<dyn Fn() -> Command + Send + Sync>,
    pool: Mutex<Pool>,
    returned: Condvar,
}

struct Pool {
    idle: Vec<Worker>,
    /// Workers that may still be taken or started.
    free: usize,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
}

impl Workers {
    pub(crate) fn new(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        let free = thread::available_parallelism().map_or(1, usize::from);
        let pool = Mutex::new(Pool { idle: Vec::new(), free });
        Workers { command: Box::new(command), pool, returned: Condvar::new() }
    }

    /// Tries tokenizer and template of the directory the command names; true: it has a template.
    pub(crate) fn check(&self, dir: &Path) -> Result<bool, TextError> {
        // A worker of its own, so that the memory a tokenizer takes is given back.
        let mut worker = self.start()?;
        let answer = frame::encode(&Task::Check).and_then(|task| {
            worker.send(&task)?;
            worker.answer(task.len())
        });
        match answer {
            Ok(Some(Answer::Checked { template })) => Ok(template),
            Ok(Some(Answer::Failed(error))) => Err(error),
            Ok(Some(Answer::Text(_))) => Err(TextError::file(dir, "its check answered with a text")),
            Ok(None) | Err(_) => {
                let limit = limits::LOAD;
                let ended = worker.end().map_or_else(|e| e.to_string(), |status| status.to_string());
                let reason = format!(
                    "a process with {} MiB of memory and {} s of processor time could not load its tokenizer ({ended})",
                    limit.memory >> 20,
                    limit.cpu.as_secs()
                );
                Err(TextError::file(dir, reason))
            }
        }
    }

    pub(crate) fn render(&self, chat: &Chat<'_>) -> Result<String, TextError> {
        let task = frame::encode(&Task::Render(Conversation::of(chat)))
            .map_err(|e| TextError::Template(e.to_string()))?;
        let place = self.place();
        // One that died while it was idle says so when it is sent something.
        let idle = place.idle().and_then(|mut worker| worker.send(&task).is_ok().then_some(worker));
        let mut worker = match idle {
            Some(worker) => worker,
            None => {
                let mut worker = self.start()?;
                worker.send(&task).map_err(|_| TextError::TemplateBudget)?;
                worker
            }
        };
        match worker.answer(task.len()) {
            Ok(Some(answer)) => {
                place.give_back(worker);
                match answer {
                    Answer::Text(text) => Ok(text),
                    Answer::Failed(error) => Err(error),
                    Answer::Checked { .. } => Err(TextError::Template("a check was answered".into())),
                }
            }
            // It went over its limits, or its answer did; dropping it ends it, and the next render starts another.
            Ok(None) | Err(_) => Err(TextError::TemplateBudget),
        }
    }

    fn start(&self) -> Result<Worker, TextError> {
        let mut command = (self.command)();
        // Ctrl-C in a terminal goes to a whole group; workers must live until the last request is answered.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let started = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let program = Path::new(command.get_program());
        let mut child = started.map_err(|e| TextError::file(program, e))?;
        match (child.stdin.take(), child.stdout.take()) {
            (Some(input), Some(output)) => Ok(Worker { child, input, output }),
            _ => Err(TextError::file(program, "has no pipes")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until one more worker may be busy.
    fn place(&self) -> Place<'_> {
        let mut pool = self.lock();
        while pool.free == 0 {
            pool = self.returned.wait(pool).unwrap_or_else(PoisonError::into_inner);
        }
        pool.free -= 1;
        Place(self)
    }
}

/// The right to keep one worker busy; given back when dropped.
struct Place<'a>(&'a Workers);

impl Place<'_> {
    fn idle(&self) -> Option<Worker> {
        self.0.lock().idle.pop()
    }

    fn give_back(&self, worker: Worker) {
        self.0.lock().idle.push(worker);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.lock().free += 1;
        self.0.returned.notify_one();
    }
}

impl Worker {
    fn send(&mut self, task: &[u8]) -> io::Result<()> {
        frame::write(&mut self.input, task)
    }

    /// The answer to a task of so many bytes; `None`: it has ended.
    fn answer(&mut self, task_bytes: usize) -> io::Result<Option<Answer>> {
        match frame::read(&mut self.output, limits::answer_bytes(task_bytes))? {
            Some(body) => frame::decode(&body).map(Some),
            None => Ok(None),
        }
    }

    fn end(&mut self) -> io::Result<ExitStatus> {
        // An error here means that it has ended already.
        let _ = self.child.kill();
        self.child.wait()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        let _ = self.end();
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}
