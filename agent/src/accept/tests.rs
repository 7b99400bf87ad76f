use super::*;

fn pods(text: &str) -> List<PodObject> {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_node_is_ready_only_when_it_says_so() {
    let node = |text: &str| serde_json::from_str::<NodeObject>(text).unwrap();
    let ready = node(
        r#"{"metadata":{"name":"a"},"status":{"conditions":[
            {"type":"MemoryPressure","status":"False"},{"type":"Ready","status":"True"}]}}"#,
    );
    assert!(readiness(Some(&ready)).is_ok());
    let not = node(
        r#"{"metadata":{"name":"a"},"status":{"conditions":[
            {"type":"Ready","status":"False","message":"cni plugin not initialized"}]}}"#,
    );
    assert_eq!(readiness(Some(&not)).unwrap_err(), "cni plugin not initialized");
    assert!(readiness(Some(&node(r#"{"metadata":{"name":"a"}}"#))).is_err());
    assert!(readiness(None).is_err());
}

#[test]
fn a_pod_counts_when_it_runs_with_an_address_on_a_wanted_node() {
    let text = r#"{"items":[
        {"metadata":{"name":"p1"},"spec":{"nodeName":"cp1"},"status":{"phase":"Running","podIP":"10.244.0.9"}},
        {"metadata":{"name":"p2"},"spec":{"nodeName":"w1"},"status":{"phase":"Pending"}},
        {"metadata":{"name":"p3"},"spec":{"nodeName":"other"},"status":{"phase":"Running","podIP":"10.244.7.9"}}]}"#;
    let wanted = ["cp1".to_owned(), "w1".to_owned()];
    let lacking = pods_by_node(pods(text), &wanted).unwrap_err();
    assert_eq!(lacking, "no test pod runs on w1");
    let found = pods_by_node(pods(text), &wanted[..1]).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["cp1"]);
    assert_eq!(found["cp1"].address, "10.244.0.9");
}

#[test]
fn the_test_pods_carry_no_token_and_no_rights() {
    let objects = manifests::objects(NAMESPACE, "registry.example/busybox:1");
    let pod = &objects["items"][1]["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], false);
    assert_eq!(pod["containers"][0]["securityContext"]["capabilities"]["drop"][0], "ALL");
    assert_eq!(pod["containers"][0]["imagePullPolicy"], "IfNotPresent");
    let selector = &objects["items"][2]["spec"]["selector"];
    assert_eq!(*selector, objects["items"][1]["spec"]["template"]["metadata"]["labels"]);
}
