// A vCenter for tests: the simulator of govmomi, which others wrote, behind a command line of ours.
//
// Built twice: plain, as it is in Debian, and extended (see extended.go and the folder simulator).
package main

import (
	"crypto/tls"
	"flag"
	"fmt"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// Set by extended.go, where that is built in.
var extend = func(*http.ServeMux) {}

func main() {
	m := simulator.VPX()
	m.Machine = 0
	flag.IntVar(&m.Machine, "vm", 0, "VMs per resource pool, of nobody that we know")
	flag.IntVar(&m.ClusterHost, "host", m.ClusterHost, "hosts per cluster")
	flag.IntVar(&m.DelayConfig.Delay, "delay", 0, "ms that each call takes longer")
	flag.StringVar(&m.ServiceContent.About.ApiVersion, "api-version", "8.0.2.0", "four parts, or pyvmomi takes it for 6.0")
	listen := flag.String("l", "127.0.0.1:0", "where to listen")
	user, password := flag.String("username", "user", ""), flag.String("password", "pass", "")
	cert, key := flag.String("tlscert", "", ""), flag.String("tlskey", "", "")
	tools := flag.Bool("tools", false, "give each VM that is powered on an address, as VMware Tools do")
	flag.Parse()
	m.Host = 0
	if err := m.Create(); err != nil {
		log.Fatal(err)
	}
	defer m.Remove()
	simulator.Map.AddHandler(&guests{tools: *tools})
	m.Service.RegisterEndpoints = true
	m.Service.ServeMux = http.NewServeMux()
	extend(m.Service.ServeMux)
	m.Service.Listen = &url.URL{Host: *listen, User: url.UserPassword(*user, *password)}
	m.Service.TLS = new(tls.Config)
	if *cert != "" {
		c, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			log.Fatal(err)
		}
		m.Service.TLS.Certificates = []tls.Certificate{c}
	}
	s := m.Service.NewServer()
	fmt.Println(s.URL.Host)
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGINT, syscall.SIGTERM)
	<-end
}

// guests sees to it that nobody takes the address that a guest had for the one that it will have. With `tools`
// it stands for the VMware Tools of guests that boot in no time.
type guests struct {
	count uint32
	tools bool
}

func (*guests) Reference() types.ManagedObjectReference {
	return types.ManagedObjectReference{Type: "Guests", Value: "guests"}
}

func (*guests) PutObject(mo.Reference) {}

func (*guests) RemoveObject(types.ManagedObjectReference) {}

func (g *guests) UpdateObject(object mo.Reference, changes []types.PropertyChange) {
	vm, ok := object.(*mo.VirtualMachine)
	if !ok {
		return
	}
	for _, change := range changes {
		if change.Name != "runtime.powerState" {
			continue
		}
		address, status := "", "guestToolsNotRunning"
		if g.tools && vm.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			n := atomic.AddUint32(&g.count, 1)
			address, status = fmt.Sprintf("127.%d.%d.%d", 64+n>>16&63, n>>8&255, n&255), "guestToolsRunning"
		}
		simulator.Map.Update(vm, []types.PropertyChange{
			{Name: "guest.ipAddress", Val: address},
			{Name: "guest.toolsRunningStatus", Val: status},
		})
	}
}
