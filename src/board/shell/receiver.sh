# Takes a job from standard input, a line at a time: NUMBER LENGTH TEXT, with the length of TEXT in characters. hearth types
# it at a board's shell, which may be busybox's. What stands between @ is replaced: see script.rs.
stty -echo 2>/dev/null
n=0
k=0
: >t
echo hearth-have-0-0-
while read -r i l d; do
case $i in
new) n=0; k=0; : >t;;
sum) @DECODE@; @SUM@ <j; echo hearth-sum-; continue;;
run) break;;
$((n+1))) [ "${#d}" = "$l" ] && @KEEP@ && n=$i && k=$l || { echo hearth-lost-$n-; continue; };;
$n) ;;
*) echo hearth-lost-$n-; continue;;
esac
echo hearth-have-$n-$k-
done
p=$PWD
mkdir -p ../@NAME@ && cd ../@NAME@ && @UNPACK@ || { echo hearth-unpack-; exit; }
rm -f "$p/j" "$p/t"
rm -rf ../@NAME@.in
exec sh ./bin/hearth-console
