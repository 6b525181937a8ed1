# bash completion for rootsrv; made by `make man`.
_rootsrv() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} path= word at=1
    while [ $at -lt $COMP_CWORD ]; do
        word=${COMP_WORDS[at]}
        case " $(_rootsrv_words "$path") " in *" $word "*) case $word in -*) ;; *) path="$path $word" ;; esac ;; esac
        at=$((at + 1))
    done
    case "$path $previous" in
    " zone verify --zonemd") COMPREPLY=($(compgen -W "required if-supported off" -- "$current")) ;;
    " zone compile --zonemd") COMPREPLY=($(compgen -W "required if-supported off" -- "$current")) ;;
    " run --role") COMPREPLY=($(compgen -W "serve maintain advertise report mesh capture localroot portal" -- "$current")) ;;
    " drain --family") COMPREPLY=($(compgen -W "4 6 both" -- "$current")) ;;
    " undrain --family") COMPREPLY=($(compgen -W "4 6 both" -- "$current")) ;;
    " withdraw --family") COMPREPLY=($(compgen -W "4 6 both" -- "$current")) ;;
    " shed --do") COMPREPLY=($(compgen -W "tc-unless-cookie drop tc" -- "$current")) ;;
    " capture start --compression") COMPREPLY=($(compgen -W "none gzip zstd" -- "$current")) ;;
    " capture start --format") COMPREPLY=($(compgen -W "cdns pcap" -- "$current")) ;;
    " capture ditl --compression") COMPREPLY=($(compgen -W "none gzip zstd" -- "$current")) ;;
    " hyperlocal --configure") COMPREPLY=($(compgen -W "unbound bind kresd kresd6 pdns pdns5" -- "$current")) ;;
    " hyperlocal --on-stale") COMPREPLY=($(compgen -W "relay servfail" -- "$current")) ;;
    *" --config"|*" --output"|*" --anchors"|*" --hosts"|*" --root"|*" --network")
       COMPREPLY=($(compgen -f -- "$current")) ;;
    *) COMPREPLY=($(compgen -W "$(_rootsrv_words "$path")" -- "$current"))
       [ ${#COMPREPLY[@]} -gt 0 ] || COMPREPLY=($(compgen -f -- "$current")) ;;
    esac
}
_rootsrv_words() {
    case "$1" in
    "") echo "check-config zone run drain undrain withdraw restart status reload block unblock blocks shed unshed sheds top fastpath doctor setup rssac002 capture mesh hyperlocal localroot resolver probe security-events demo -h --help --version" ;;
    " check-config") echo "-h --help --live" ;;
    " zone") echo "verify reset-floor compile list show refresh approve reject import export -h --help" ;;
    " zone verify") echo "-h --help --name --anchors --at --hosts-anchors --zonemd --root" ;;
    " zone reset-floor") echo "-h --help --zone --reason --config --json" ;;
    " zone compile") echo "-h --help --hosts --hosts-name --anchors --at --hosts-anchors --zonemd --output" ;;
    " zone list") echo "-h --help --zone --config --json" ;;
    " zone show") echo "-h --help --serial --zone --config --json" ;;
    " zone refresh") echo "-h --help --zone --config --json" ;;
    " zone approve") echo "-h --help --zone --config --json" ;;
    " zone reject") echo "-h --help --zone --config --json" ;;
    " zone import") echo "-h --help --now --zone --config --json" ;;
    " zone export") echo "-h --help --serial --zone --config --json" ;;
    " run") echo "-h --help --config --role" ;;
    " drain") echo "-h --help --config --json --family --reason --force --wait" ;;
    " undrain") echo "-h --help --config --json --family --reason" ;;
    " withdraw") echo "-h --help --config --json --family --reason --force --now" ;;
    " restart") echo "-h --help --when-token --if-needed --upgrade --link --by --healthy-within --config --json" ;;
    " status") echo "-h --help --config --json" ;;
    " reload") echo "-h --help --config --json" ;;
    " block") echo "-h --help --config --json --for --reason" ;;
    " unblock") echo "-h --help --config --json" ;;
    " blocks") echo "-h --help --config --json" ;;
    " shed") echo "-h --help --config --json --match --do --for --reason --dry-run --really" ;;
    " unshed") echo "-h --help --config --json" ;;
    " sheds") echo "-h --help --config --json" ;;
    " top") echo "-h --help --config --json --once" ;;
    " fastpath") echo "status attach tap detach -h --help" ;;
    " fastpath status") echo "-h --help --config --json" ;;
    " fastpath attach") echo "-h --help --config --json --replace" ;;
    " fastpath tap") echo "-h --help --config --json --write" ;;
    " fastpath detach") echo "-h --help --config --json --reason" ;;
    " doctor") echo "-h --help --config --json --network" ;;
    " setup") echo "-h --help --answers --name --admin-interface --admin-addresses --management --service-interface --link-addresses --routers --service-addresses --prefixes --local-as --router-as --session-password --reach --primaries --peers --cookie-secret --sources-key --mesh --show --yes --overwrite --no-doctor --directory --bird --etc" ;;
    " rssac002") echo "export merge validate -h --help" ;;
    " rssac002 export") echo "-h --help --config --day --output" ;;
    " rssac002 merge") echo "-h --help --service --without-sources --output" ;;
    " rssac002 validate") echo "-h --help --sums" ;;
    " capture") echo "start stop status ditl show report -h --help" ;;
    " capture start") echo "-h --help --config --json --for --compression --name --every --format" ;;
    " capture stop") echo "-h --help --config --json" ;;
    " capture status") echo "-h --help --config --json" ;;
    " capture ditl") echo "-h --help --config --json --begin --hours --rate --to --compression --name --every --check" ;;
    " capture show") echo "-h --help --json" ;;
    " capture report") echo "-h --help --output --title" ;;
    " mesh") echo "init key roster join status hold approve reject emergency canary publish maintenance -h --help" ;;
    " mesh init") echo "-h --help --service" ;;
    " mesh key") echo "-h --help --public --json" ;;
    " mesh roster") echo "sign check -h --help" ;;
    " mesh roster sign") echo "-h --help --key --output --json" ;;
    " mesh roster check") echo "-h --help --service --roster-key --json" ;;
    " mesh join") echo "-h --help --roster --roster-key --service --member --key --endpoint --certificates" ;;
    " mesh status") echo "-h --help --config --json" ;;
    " mesh hold") echo "-h --help --zone --key --reason --digest --config --json" ;;
    " mesh approve") echo "-h --help --zone --key --reason --digest --config --json" ;;
    " mesh reject") echo "-h --help --zone --key --reason --digest --config --json" ;;
    " mesh emergency") echo "-h --help --zone --key --reason --digest --config --json" ;;
    " mesh canary") echo "-h --help --zone --key --reason --digest --config --json" ;;
    " mesh publish") echo "-h --help --config --json" ;;
    " mesh maintenance") echo "add remove list -h --help" ;;
    " mesh maintenance add") echo "-h --help --member --site --start --end --key --reason --config --json" ;;
    " mesh maintenance remove") echo "-h --help --key --reason --config --json" ;;
    " mesh maintenance list") echo "-h --help --config --json" ;;
    " hyperlocal") echo "-h --help --configure --check --contribution --write --storage --address --port --notify --serve --on-stale --contribute --token-file --https-port --state --runtime --publishers --trust-anchors --config" ;;
    " localroot") echo "setup users servers keys zones mails invite suspend restore delete-user revoke -h --help" ;;
    " localroot setup") echo "-h --help --answers --name --addresses --primaries --zones --certificate --certificate-key --url --contact --mail-from --show --yes --overwrite --no-doctor --directory" ;;
    " localroot users") echo "-h --help --config --json" ;;
    " localroot servers") echo "-h --help --config --json" ;;
    " localroot keys") echo "-h --help --config --json" ;;
    " localroot zones") echo "-h --help --config --json" ;;
    " localroot mails") echo "-h --help --config --json" ;;
    " localroot invite") echo "-h --help --config" ;;
    " localroot suspend") echo "-h --help --config" ;;
    " localroot restore") echo "-h --help --config" ;;
    " localroot delete-user") echo "-h --help --config" ;;
    " localroot revoke") echo "-h --help --config" ;;
    " resolver") echo "-h --help --publisher --fallback --publications --url --ca-file --key --secret-file --algorithm --storage --hosts --private-zone --whole" ;;
    " probe") echo "-h --help --zone --anchors --interval --rounds --output --listen --source --json" ;;
    " security-events") echo "-h --help --day --log --output --verify --public-key --config" ;;
    " demo") echo "-h --help --port --tlds --workers --rate --tour --localroot --once" ;;
    esac
}
complete -o filenames -F _rootsrv rootsrv
