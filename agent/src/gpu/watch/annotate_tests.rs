use super::*;
use crate::{
    facts::Look,
    gpu::{
        Surveyor,
        report::Library,
        verdict::judge,
        xid::{XidLog, XidTable},
    },
};

fn uuid(at: usize) -> String {
    format!("GPU-{}-0000-0000-0000-000000000000", at.to_string().repeat(8))
}

fn gpu(at: usize, state: GpuState) -> Gpu {
    let mut gpu = Gpu::unasked(u32::try_from(at).ok(), state, "NVML", "a test");
    gpu.pci = Found::present(format!("0000:0{at}:00.0"), "a test");
    gpu.uuid = Found::present(uuid(at), "a test");
    gpu
}

fn node(gpus: Vec<Gpu>) -> NodeGpus {
    let empty = tempfile::tempdir().unwrap();
    let mut report = Surveyor::only_bus(&Look::at(empty.path()), "a test");
    (report.library, report.gpus) = (Library::Answered, gpus);
    let verdicts = judge(&report, &XidLog::new(""), &XidTable::builtin());
    NodeGpus { report, errors: Vec::new(), verdicts, warnings: Vec::new() }
}

#[test]
fn sick_gpus_are_cordoned_healthy_ones_are_ok_and_of_others_nothing_is_said() {
    let mut well = gpu(3, GpuState::Answers);
    well.model = Found::present("NVIDIA A100".to_owned(), "a test");
    well.mig.mode = Found::absent("a test");
    let mut unnamed = gpu(6, GpuState::Lost);
    unnamed.uuid = Found::unknown("a test", "nobody knows");
    let not_asked = GpuState::NotAsked { reason: "hung".to_owned() };
    let gpus = vec![
        well,
        gpu(1, GpuState::Lost),
        gpu(4, not_asked),
        gpu(5, GpuState::NotNvidias),
        unnamed,
    ];
    let health = health_of(&node(gpus));
    let told: Vec<(String, GpuVerdict, String)> =
        health.gpus.iter().map(|gpu| (gpu.uuid.clone(), gpu.verdict, gpu.reason.clone())).collect();
    assert_eq!(
        told,
        [
            (uuid(1), GpuVerdict::Cordon, "the GPU fell off the bus: reboot the node".to_owned()),
            (uuid(3), GpuVerdict::Ok, String::new()),
        ]
    );
    assert_eq!((health.gpus[1].index, health.gpus[1].mig), (Some(3), Some(false)));
    assert_eq!(health.gpus[1].model.as_deref(), Some("NVIDIA A100"));
    // The reader's own reading of it.
    assert_eq!(GpuHealth::parse(&health.to_text()).unwrap(), health);
    let many = (0..200).map(|_| gpu(1, GpuState::Answers)).collect();
    assert_eq!(health_of(&node(many)).gpus.len(), 1, "each once");
}

#[test]
fn the_node_is_the_one_that_the_kubelets_certificate_speaks_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kubelet.conf");
    let pem = |name: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        let certificate = parameters.self_signed(&key).unwrap();
        let text = STANDARD.encode(certificate.der());
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    };
    // As kubeadm has it: a path, and further users before it.
    let conf = "users: [{name: a, user: {token: hunter2}}, {name: b, user: {client-certificate: kubelet.pem}}]";
    for (name, wanted) in [
        ("system:node:w1.example", Some("w1.example")),
        ("system:node:", None),
        ("system:node:../w1", None),
        ("admin", None),
    ] {
        fs_err::write(folder.path().join("kubelet.pem"), pem(name)).unwrap();
        fs_err::write(&path, conf).unwrap();
        assert_eq!(node_name(&path).ok().as_deref(), wanted, "{name}");
    }
    for bad in ["", "hunter2: [", "users: [{name: a, user: {client-certificate-data: 'hunter2!'}}]"]
    {
        fs_err::write(&path, bad).unwrap();
        let why = node_name(&path).unwrap_err();
        assert!(!why.contains("hunter2"), "{why}");
    }
    for torn in
        [&[0x06, 0x03, 0x55, 0x04, 0x03][..], &[0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, 0x7f, b's']]
    {
        assert_eq!(node_in(torn), None);
    }
}

#[test]
fn what_fails_is_tried_again_after_longer_and_longer_but_not_for_ever() {
    let pauses: Vec<u64> = [0, 1, 2, 8, 9, 40].map(|failures| backoff(failures).as_secs()).to_vec();
    assert_eq!(pauses, [1, 2, 4, 256, 300, 300]);
}
