//! GPUs cut by the step itself: the real program starts its real child, which calls a library that remembers.

use std::{io::Read, sync::Mutex, time::Duration};

use kdc_agent::{
    gpu::mig::{Answer, CutGpu},
    host::{Attributes, Feed, Host, HostError, Output, Program, Stamp, Stat, SystemHost},
    step::{
        Before, BlobError, BlobSource, Context, Keep, Step, StepError, Values,
        gpu::{settle_instances, waiting_for_reboot},
    },
    wire::SecretText,
};
use kdc_bundles::index::Digest;

use crate::kit::Machine;

const CUT: &str = include_str!("cut.yaml");
const THIRD: &str = "GPU-33333333-0000-0000-0000-000000000000";

/// An instance: its profile and place, and the places of its compute instances.
type Cut = (u32, u32, Vec<(u32, u32)>);

/// The machine of the kit, with the test's own processes and no others to be seen.
struct Node {
    machine: Machine,
    files: SystemHost,
}

impl Node {
    fn new(gpus: &str) -> Self {
        let machine = Machine::new(gpus);
        let root = machine.folder().join("root");
        for folder in ["etc/kdc", "run", "etc/systemd/system"] {
            fs_err::create_dir_all(root.join(folder)).unwrap();
        }
        Self { machine, files: SystemHost::at(root) }
    }

    fn gpus(&self) -> Vec<CutGpu> {
        let program = Program::new("/proc/self/exe").arg("gpu-instances").with_input("\"look\"");
        let output = self.run_checked(&program).unwrap();
        match serde_json::from_slice(&output.stdout).unwrap() {
            Answer::Seen { gpus } => gpus,
            other => panic!("{other:?}"),
        }
    }

    /// Profiles and places of a GPU, with those of the compute instances in each.
    fn cut(&self, index: usize) -> Vec<Cut> {
        let parts = |parts: &[kdc_agent::gpu::mig::Part]| {
            parts.iter().map(|part| (part.start, part.size)).collect()
        };
        let gpu = self.gpus().swap_remove(index);
        gpu.instances.iter().map(|one| (one.profile, one.start, parts(&one.parts))).collect()
    }

    fn names(&self) -> Vec<String> {
        let gpus = self.gpus();
        let parts = gpus.iter().flat_map(|gpu| &gpu.instances).flat_map(|one| &one.parts);
        parts.filter_map(|part| part.uuid.clone()).collect()
    }
}

struct Nothing;

impl BlobSource for Nothing {
    fn open(&self, digest: &Digest) -> Result<Box<dyn Read + Send>, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }
    fn size(&self, digest: &Digest) -> Result<u64, BlobError> {
        Err(BlobError::Missing { digest: digest.clone() })
    }
}

impl Values for Nothing {
    fn get(&self, _: &str) -> Result<Option<SecretText>, HostError> {
        Ok(None)
    }
}

impl Keep for Nothing {
    fn keep(&self, _: &Digest, _: &mut dyn Read) -> Result<(), StepError> {
        Ok(())
    }
    fn kept(&self, digest: &Digest) -> Result<Box<dyn Read + '_>, StepError> {
        Err(StepError::Kept { digest: digest.clone(), what: "is not kept here".to_owned() })
    }
}

/// Files below the machine's root; this program itself is the kit's, with the fake library.
impl Host for Node {
    fn stream(
        &self,
        program: &Program,
        feed: Feed<'_>,
        line: &mut dyn FnMut(&str),
    ) -> Result<Output, HostError> {
        assert_eq!(program.name(), "/proc/self/exe", "no other program");
        let own = self.machine.folder().join("kdc-agent");
        let own = Program::new(&own.to_string_lossy()).args(program.arguments().iter().cloned());
        self.files.stream(&own.within(program.deadline()), feed, line)
    }
    fn stat(&self, path: &str) -> Result<Option<Stat>, HostError> {
        self.files.stat(path)
    }
    fn stamp(&self, path: &str) -> Result<Option<Stamp>, HostError> {
        self.files.stamp(path)
    }
    fn open(&self, path: &str) -> Result<Option<Box<dyn Read + '_>>, HostError> {
        self.files.open(path)
    }
    fn read_link(&self, path: &str) -> Result<String, HostError> {
        self.files.read_link(path)
    }
    fn list(&self, path: &str) -> Result<Option<Vec<String>>, HostError> {
        self.files.list(path)
    }
    fn write_from(
        &self,
        path: &str,
        content: &mut dyn Read,
        _: Attributes,
    ) -> Result<(), HostError> {
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).unwrap();
        // Whoever runs the test owns them.
        fs_err::write(self.machine.folder().join("root").join(&path[1..]), bytes).unwrap();
        Ok(())
    }
    fn set_kernel_value(&self, path: &str, value: &str) -> Result<(), HostError> {
        self.files.set_kernel_value(path, value)
    }
    fn make_directory(&self, path: &str, _: Attributes) -> Result<(), HostError> {
        fs_err::create_dir_all(self.machine.folder().join("root").join(&path[1..])).unwrap();
        Ok(())
    }
    fn make_link(&self, path: &str, target: &str) -> Result<(), HostError> {
        self.files.make_link(path, target)
    }
    fn set_attributes(&self, path: &str, attributes: Attributes) -> Result<(), HostError> {
        self.files.set_attributes(path, attributes)
    }
    fn remove(&self, path: &str) -> Result<(), HostError> {
        self.files.remove(path)
    }
    fn remove_directory(&self, path: &str) -> Result<bool, HostError> {
        self.files.remove_directory(path)
    }
    fn remove_tree(&self, path: &str) -> Result<(), HostError> {
        self.files.remove_tree(path)
    }
    fn sleep(&self, _: Duration) {}
    fn now_unix_ms(&self) -> u64 {
        0
    }
}

fn step(parts: &[(&str, u8)]) -> Step {
    let geometry = parts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    Step::SetMigGeometry { geometry, except: vec![THIRD.to_owned()] }
}

fn context(node: &Node) -> Context<'_> {
    Context::new(node, &Nothing, &Nothing, &Nothing, &|_| ())
}

fn apply(node: &Node, step: &Step) -> Result<Before, StepError> {
    let context = context(node);
    let before = step.probe(&context)?;
    step.apply(&context, &before).map(|()| before)
}

/// As no step cuts it: one instance with two compute instances in it.
fn cut_by_hand(node: &Node) {
    let question = r#"{"change": [{"uuid": "GPU-11111111-0000-0000-0000-000000000000", "orders": [
        {"mode": {"on": true}},
        {"create": {"profile": 9, "start": 4, "size": 4, "parts": [
            {"profile": 1, "start": 0, "size": 1}, {"profile": 2, "start": 1, "size": 2}]}}]}]}"#;
    let program = Program::new("/proc/self/exe").arg("gpu-instances").with_input(question);
    let output = node.run_checked(&program).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "\"done\"\n");
}

#[test]
fn the_library_cuts_gpus_as_wanted_and_undo_brings_back_what_was_cut_by_hand() {
    let node = Node::new(CUT);
    cut_by_hand(&node);
    let was = vec![(9, 4, vec![(0, 1), (1, 2)])];
    assert_eq!(node.cut(0), was);
    let step = step(&[("1g.10gb", 3), ("3g.40gb", 1)]);
    let before = apply(&node, &step).unwrap();
    let wanted = vec![
        (9, 0, vec![(0, 3)]),
        (19, 4, vec![(0, 1)]),
        (19, 5, vec![(0, 1)]),
        (19, 6, vec![(0, 1)]),
    ];
    assert_eq!((node.cut(0), node.cut(1)), (wanted.clone(), wanted));
    assert_eq!(node.names().len(), 8, "kubelet can name them: {:?}", node.names());
    let context = context(&node);
    assert!(step.is_satisfied_by(&step.probe(&context).unwrap()).unwrap());
    // The report of the node has them too.
    let report = node.machine.survey();
    let told = report.gpus[0].mig.instances.value().unwrap();
    assert_eq!(told.len(), 4);
    step.undo(&context, &before).unwrap();
    assert_eq!((node.cut(0), node.cut(1)), (was, vec![]));
    let on = |gpu: &CutGpu| gpu.mode.map(|mode| (mode.current, mode.pending));
    let modes: Vec<_> = node.gpus().iter().map(on).collect();
    assert_eq!(modes, [Some((true, true)), Some((false, false)), None]);
    assert!(node.stat("/etc/kdc/gpu-instances.json").unwrap().is_none());
}

#[test]
fn whichever_call_of_the_library_fails_every_gpu_is_as_before() {
    let calls = [
        ("nvmlDeviceSetMigMode 2", 999),
        ("nvmlDeviceCreateGpuInstanceWithPlacement 2", 23),
        ("nvmlDeviceCreateGpuInstanceWithPlacement 4", 999),
        ("nvmlGpuInstanceCreateComputeInstance 1", 23),
        ("nvmlGpuInstanceCreateComputeInstance 3", 15),
        ("nvmlComputeInstanceDestroy 2", 19),
        ("nvmlGpuInstanceDestroy 1", 19),
    ];
    for (call, code) in calls {
        let fail = format!("    fail: {{\"{call}\": {code}}}\n");
        let gpus = CUT.replace("    #1\n", &fail).replace("    #2\n", &fail);
        let node = Node::new(&gpus);
        cut_by_hand(&node);
        let error = apply(&node, &step(&[("1g.10gb", 3), ("3g.40gb", 1)])).unwrap_err();
        assert!(error.to_string().contains("the driver would not"), "{call}: {error}");
        assert_eq!(node.cut(0), [(9, 4, vec![(0, 1), (1, 2)])], "{call}");
        let second = node.gpus().swap_remove(1);
        assert!(!second.mode.unwrap().pending && second.instances.is_empty(), "{call}: {second:?}");
        assert!(node.stat("/etc/kdc/gpu-instances.json").unwrap().is_none());
    }
}

#[test]
fn a_library_that_crashes_while_it_cuts_is_outlived_and_what_was_is_brought_back() {
    let crash = "    fail: {\"nvmlGpuInstanceCreateComputeInstance 2\": crash}\n";
    let node = Node::new(&CUT.replace("    #1\n", crash));
    let error = apply(&node, &step(&[("1g.10gb", 3)])).unwrap_err();
    assert!(error.to_string().contains("gpu-instances"), "{error}");
    let first = node.gpus().swap_remove(0);
    assert!(!first.mode.unwrap().current && first.instances.is_empty(), "{first:?}");
}

#[test]
fn an_instance_that_a_program_runs_on_stays_and_the_program_is_named() {
    let pid = std::process::id();
    let node = Node::new(CUT);
    apply(&node, &step(&[("1g.10gb", 1)])).unwrap();
    // It is on the instance at the first slice, whose number is 1.
    let process =
        format!("    computing: [{{pid: {pid}, memory: 1, gpuInstance: 1, computeInstance: 0}}]\n");
    let state = fs_err::read(node.machine.folder().join("gpus.yaml.state")).unwrap();
    let node = Node::new(&CUT.replace("    #2\n", &process));
    fs_err::write(node.machine.folder().join("gpus.yaml.state"), &state).unwrap();
    let folder = node.machine.folder().join(format!("root/proc/{pid}"));
    fs_err::create_dir_all(&folder).unwrap();
    fs_err::write(folder.join("comm"), "trainer\n").unwrap();
    let error = apply(&node, &step(&[("7g.80gb", 1)])).unwrap_err();
    let words = format!(
        "GPU GPU-22222222-0000-0000-0000-000000000000 is in use: process {pid} (trainer) runs on it"
    );
    assert!(error.to_string().contains(&words), "{error}");
    assert_eq!(node.cut(0), [(19, 0, vec![(0, 1)])], "nothing was done on the other one either");
    // What fits beside it is made beside it.
    apply(&node, &step(&[("1g.10gb", 1), ("2g.20gb", 1)])).unwrap();
    assert_eq!(node.cut(1), [(19, 0, vec![(0, 1)]), (14, 2, vec![(0, 2)])]);
}

#[test]
fn a_card_that_wants_a_reset_has_its_instances_after_the_boot() {
    let wants = CUT.replace("    mig: &h100\n", "    mig: &h100\n      wantsReset: true\n");
    let node = Node::new(&wants);
    let step = step(&[("3g.40gb", 2)]);
    apply(&node, &step).unwrap();
    assert!(waiting_for_reboot(&node).unwrap()["mig"].starts_with("MIG starts on GPU-1"));
    assert!(node.gpus()[0].instances.is_empty());
    // The boot: MIG is on, and /run is empty.
    node.remove_tree("/run/kdc").unwrap();
    let state = node.machine.folder().join("gpus.yaml.state");
    let text = fs_err::read_to_string(&state).unwrap().replace("current: 0", "current: 1");
    fs_err::write(&state, text).unwrap();
    let said = Mutex::new(Vec::new());
    settle_instances(&node, &|line| said.lock().unwrap().push(line.to_owned())).unwrap();
    assert_eq!(*said.lock().unwrap(), ["cut as wanted: 2 x 3g.40gb"]);
    assert_eq!(node.cut(0), [(9, 0, vec![(0, 3)]), (9, 4, vec![(0, 3)])]);
    assert_eq!(node.cut(1).len(), 2);
}

#[test]
fn what_the_library_does_not_offer_is_refused_with_what_it_does() {
    let node = Node::new(CUT);
    for (parts, words) in [
        (vec![("1g.5gb", 1)], "has no profile `1g.5gb`; it has 1g.10gb, 2g.20gb, 3g.40gb"),
        (vec![("4g.40gb", 2)], "1 x 4g.40gb would"),
    ] {
        let error = apply(&node, &step(&parts)).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    }
    let all = Step::SetMigGeometry { geometry: [("1g.10gb".to_owned(), 1)].into(), except: vec![] };
    let error = apply(&node, &all).unwrap_err();
    assert!(error.to_string().contains(&format!("GPU {THIRD} knows no MIG")), "{error}");
    // An old driver's library has no names for profiles.
    node.machine.drop_functions(&["nvmlDeviceGetGpuInstanceProfileInfoV"]);
    let error = apply(&node, &step(&[("1g.10gb", 1)])).unwrap_err();
    assert!(error.to_string().contains("this driver's library has no such function"), "{error}");
}
