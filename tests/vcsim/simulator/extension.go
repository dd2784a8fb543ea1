// What Debian's simulator lacks and our tests need. All of this is ours: a test that is green against it shows
// that requests encode and that our code agrees with itself, no more. debian.patch calls it.

package simulator

import (
	"net/http"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

// What tests have asked for.
var asked struct {
	sync.Mutex
	failures map[string]types.BaseMethodFault
	lacking  map[string]bool
	duration time.Duration
	reverts  int
}

// Control lets tests have tasks fail, and last.
func Control(w http.ResponseWriter, r *http.Request) {
	asked.Lock()
	defer asked.Unlock()
	query := r.URL.Query()
	switch r.URL.Path {
	case "/-/fail":
		kind := types.TypeFunc()
		fault, ok := kind(query.Get("fault"))
		if !ok {
			http.Error(w, "no such fault", http.StatusBadRequest)
			return
		}
		if asked.failures == nil {
			asked.failures = make(map[string]types.BaseMethodFault)
		}
		asked.failures[query.Get("task")] = reflect.New(fault).Interface().(types.BaseMethodFault)
	case "/-/lack":
		asked.lacking = map[string]bool{query.Get("privilege"): true}
	case "/-/gpu":
		for _, e := range Map.All("HostSystem") {
			host := e.(*HostSystem)
			host.Config.SharedGpuCapabilities = []types.HostSharedGpuCapabilities{{
				Vgpu:                    query.Get("profile"),
				DiskSnapshotSupported:   query.Get("disk") != "0",
				MemorySnapshotSupported: query.Get("memory") == "1",
				SuspendSupported:        query.Get("suspend") == "1",
			}}
		}
	case "/-/last":
		ms, _ := strconv.Atoi(query.Get("ms"))
		asked.duration = time.Duration(ms) * time.Millisecond
	}
}

// askedFailure is called before a task does its work.
func askedFailure(task *Task) types.BaseMethodFault {
	asked.Lock()
	defer asked.Unlock()
	fault := asked.failures[task.Info.Name]
	delete(asked.failures, task.Info.Name)
	return fault
}

// askedLack tells whether nobody has a privilege.
func askedLack(privilege string) bool {
	asked.Lock()
	defer asked.Unlock()
	return asked.lacking[privilege]
}

func askedDuration() time.Duration {
	asked.Lock()
	defer asked.Unlock()
	return asked.duration
}

func copyOf(v reflect.Value) reflect.Value {
	switch v.Kind() {
	case reflect.Ptr:
		if v.IsNil() {
			return v
		}
		n := reflect.New(v.Elem().Type())
		n.Elem().Set(copyOf(v.Elem()))
		return n
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		n := reflect.New(v.Type()).Elem()
		n.Set(copyOf(v.Elem()))
		return n
	case reflect.Slice:
		if v.IsNil() {
			return v
		}
		n := reflect.MakeSlice(v.Type(), v.Len(), v.Len())
		for i := 0; i < v.Len(); i++ {
			n.Index(i).Set(copyOf(v.Index(i)))
		}
		return n
	case reflect.Struct:
		n := reflect.New(v.Type()).Elem()
		n.Set(v)
		for i := 0; i < v.NumField(); i++ {
			if f := n.Field(i); f.CanSet() {
				f.Set(copyOf(v.Field(i)))
			}
		}
		return n
	}
	return v
}

// cloneDevice keeps clones from sharing their devices with their source.
func cloneDevice(d types.BaseVirtualDevice) types.BaseVirtualDevice {
	return copyOf(reflect.ValueOf(d)).Interface().(types.BaseVirtualDevice)
}

func cloneHost(vm *VirtualMachine, req *types.CloneVM_Task) *types.ManagedObjectReference {
	if h := req.Spec.Location.Host; h != nil {
		return h
	}
	if req.Spec.Location.Pool != nil {
		return nil // let createVM choose a host of the pool's cluster
	}
	return vm.Runtime.Host
}

func cloneConfig(dst *types.VirtualMachineConfigSpec, src *types.VirtualMachineConfigSpec) {
	if src == nil {
		return
	}
	if src.NumCPUs != 0 {
		dst.NumCPUs = src.NumCPUs
	}
	if src.MemoryMB != 0 {
		dst.MemoryMB = src.MemoryMB
	}
	dst.Annotation = src.Annotation
}

func cloneDuplicate(f *mo.Folder, name string) types.BaseMethodFault {
	if e := Map.FindByName(name, f.ChildEntity); e != nil {
		return &types.DuplicateName{Name: name, Object: e.Reference()}
	}
	return nil
}

// setOption replaces a value of extraConfig, as a vCenter does; an empty one removes it.
func setOption(options []types.BaseOptionValue, option types.BaseOptionValue) []types.BaseOptionValue {
	kept := make([]types.BaseOptionValue, 0, len(options)+1)
	for _, o := range options {
		if o.GetOptionValue().Key != option.GetOptionValue().Key {
			kept = append(kept, o)
		}
	}
	if option.GetOptionValue().Value == "" {
		return kept
	}
	return append(kept, option)
}

// reverted tells those who watch a machine that it was put back, also to where it was already.
func reverted(vm *VirtualMachine, ref types.ManagedObjectReference) []types.BaseOptionValue {
	asked.Lock()
	defer asked.Unlock()
	asked.reverts++
	value := ref.Value + "@" + strconv.Itoa(asked.reverts)
	return setOption(vm.Config.ExtraConfig, &types.OptionValue{Key: "vcsim.reverted", Value: value})
}

// snapshotPower is the state that a machine was in when the snapshot was taken.
func snapshotPower(vm *VirtualMachine, ref types.ManagedObjectReference) types.VirtualMachinePowerState {
	if t := findSnapshotInTree(vm.Snapshot.RootSnapshotList, ref); t != nil {
		return t.State
	}
	return vm.Runtime.PowerState
}

// InstantCloneTask makes a running VM of a running one.
func (vm *VirtualMachine) InstantCloneTask(ctx *Context, req *types.InstantClone_Task) soap.HasFault {
	task := CreateTask(vm, "instantClone", func(*Task) (types.AnyType, types.BaseMethodFault) {
		if vm.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOn,
				ExistingState:  vm.Runtime.PowerState,
			}
		}
		folder := vm.Parent
		if req.Spec.Location.Folder != nil {
			folder = req.Spec.Location.Folder
		}
		spec := types.VirtualMachineCloneSpec{Location: req.Spec.Location}
		if spec.Location.Pool == nil {
			spec.Location.Pool = vm.ResourcePool
		}
		spec.Config = &types.VirtualMachineConfigSpec{ExtraConfig: req.Spec.Config}
		r := vm.CloneVMTask(ctx, &types.CloneVM_Task{This: vm.Self, Folder: *folder, Name: req.Spec.Name, Spec: spec})
		t := Map.Get(r.(*methods.CloneVM_TaskBody).Res.Returnval).(*Task)
		if t.Info.Error != nil {
			return nil, t.Info.Error.Fault
		}
		ref := t.Info.Result.(types.ManagedObjectReference)
		clone := Map.Get(ref).(*VirtualMachine)
		ctx.WithLock(clone, func() { clone.PowerOnVMTask(ctx, &types.PowerOnVM_Task{This: ref}) })
		return ref, nil
	})
	return &methods.InstantClone_TaskBody{Res: &types.InstantClone_TaskResponse{Returnval: task.Run()}}
}
