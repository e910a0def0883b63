//! What may and what may not happen to tenants.

use super::*;

fn prefixes(words: &[&str]) -> TenantMode {
    TenantMode::Prefixes(words.iter().map(|word| word.as_bytes().to_vec()).collect())
}

fn create(tenants: &mut Tenants, name: &str, mode: TenantMode, edits: &[TenantEdit]) -> Result<bool, TenantRefusal> {
    let change = TenantChange::Create { name: name.into(), mode, edits: edits.to_vec() };
    tenants.apply(1, &change, &mut Vec::new())
}

fn set(tenants: &mut Tenants, name: &str, edits: &[TenantEdit]) -> Result<bool, TenantRefusal> {
    let change = TenantChange::Set { name: name.into(), edits: edits.to_vec() };
    tenants.apply(2, &change, &mut Vec::new())
}

fn two() -> Tenants {
    let mut tenants = Tenants::default();
    create(&mut tenants, "gw", prefixes(&["gw:"]), &[TenantEdit::AddUser(b"gw-user".to_vec())]).unwrap();
    create(&mut tenants, "lf", TenantMode::Namespace, &[]).unwrap();
    tenants
}

#[test]
fn overlapping_prefixes_are_refused_with_both_owners_named() {
    let mut tenants = two();
    for prefix in ["gw:", "gw:rate:"] {
        let refusal = create(&mut tenants, "other", prefixes(&[prefix]), &[]).unwrap_err().to_string();
        assert!(refusal.contains("'gw'") && refusal.contains("'other'") && refusal.contains("'gw:'"), "{refusal}");
    }
    create(&mut tenants, "ab", prefixes(&["a:b:"]), &[]).unwrap();
    assert!(matches!(create(&mut tenants, "a", prefixes(&["a:"]), &[]), Err(TenantRefusal::Overlap { .. })));
    create(&mut tenants, "neighbor", prefixes(&["gwen:"]), &[]).unwrap();
}

#[test]
fn a_prefix_ends_with_a_delimiter_and_begins_with_no_brace() {
    let mut tenants = Tenants::default();
    for wrong in ["gw", "", "{gw:", "gw:*x"] {
        assert!(
            matches!(create(&mut tenants, "gw", prefixes(&[wrong]), &[]), Err(TenantRefusal::Invalid(_))),
            "{wrong}"
        );
    }
    assert!(matches!(create(&mut tenants, "gw", prefixes(&[]), &[]), Err(TenantRefusal::Invalid(_))));
    assert!(tenants.is_empty());
}

#[test]
fn a_user_has_one_tenant_and_default_has_none() {
    let mut tenants = two();
    let user = TenantEdit::AddUser(b"gw-user".to_vec());
    let refusal = set(&mut tenants, "lf", std::slice::from_ref(&user)).unwrap_err();
    assert_eq!(refusal, TenantRefusal::UserTaken { user: "gw-user".into(), owner: "gw".into() });
    assert!(set(&mut tenants, "lf", &[TenantEdit::AddUser(b"default".to_vec())]).is_err());
    assert_eq!(set(&mut tenants, "gw", &[user]), Ok(false));
}

#[test]
fn all_edits_happen_or_none() {
    let mut tenants = two();
    let before = tenants.clone();
    let edits = [TenantEdit::Setting("limit".into(), Some("1gb".into())), TenantEdit::AddPrefix(b"wrong".to_vec())];
    assert!(set(&mut tenants, "gw", &edits).is_err());
    assert_eq!(tenants, before);
    assert_eq!(set(&mut tenants, "gw", &edits[..1]), Ok(true));
    assert_eq!(set(&mut tenants, "gw", &edits[..1]), Ok(false));
}

#[test]
fn a_tenant_goes_only_when_retired_and_its_users_go_with_it() {
    let mut tenants = two();
    let delete = |name: &str, purged| TenantChange::Delete { name: name.into(), purged };
    let mut gone = Vec::new();
    assert!(matches!(tenants.apply(3, &delete("gw", false), &mut gone), Err(TenantRefusal::NotRetired(_))));
    for name in ["gw", "lf"] {
        set(&mut tenants, name, &[TenantEdit::Retired(true)]).unwrap();
    }
    assert!(matches!(tenants.apply(4, &delete("lf", false), &mut gone), Err(TenantRefusal::NeedsPurge(_))));
    assert_eq!(tenants.apply(5, &delete("gw", false), &mut gone), Ok(true));
    assert_eq!(tenants.apply(6, &delete("lf", true), &mut gone), Ok(true));
    assert_eq!(gone, [b"gw-user".to_vec()]);
    create(&mut tenants, "gw", prefixes(&["gw:"]), &[]).unwrap();
    assert_eq!(tenants.get("gw").map(|tenant| tenant.number), Some(TenantNumber(3)), "numbers are not used again");
}

#[test]
fn a_rename_keeps_the_number_and_takes_grants_along() {
    let mut tenants = two();
    let grant = TenantGrant { tenant: "gw".into(), pattern: b"x:*".to_vec(), write: false };
    assert!(matches!(
        set(&mut tenants, "lf", &[TenantEdit::Import(grant.clone(), true)]),
        Err(TenantRefusal::Invalid(_))
    ));
    create(&mut tenants, "sub", prefixes(&["sub:"]), &[TenantEdit::Import(grant, true)]).unwrap();
    let rename = TenantChange::Rename { name: "gw".into(), to: "gateway".into() };
    assert_eq!(tenants.apply(3, &rename, &mut Vec::new()), Ok(true));
    assert_eq!(tenants.get("gateway").map(|tenant| tenant.number), Some(TenantNumber(1)));
    let imports = &tenants.get("sub").unwrap().imports;
    assert_eq!(imports.first().map(|grant| grant.tenant.as_str()), Some("gateway"));
}
